from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import record, recordings, selection
from mild_trainer.data import Dataset


def test_a_recording_of_all_images_is_one_of_the_judging_half(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, clean = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3
    labels = np.where(np.arange(60) < 12, (clean + 1) % 3, clean)
    data = Dataset("small", images, labels, images[:3], clean[:3], 3, y_train_clean=clean)
    case = record.list_full_cases(epochs=2)[0]
    settings = record.make_settings(case)
    assert (settings.model, settings.batch_size, settings.epochs) == ("resnet18", 512, 2)

    recording = record.Recorder(case, data, replace(settings, model="resnet8", batch_size=16)).run()
    recording.save(tmp_path / f"{case.name}.npz")
    (stored,) = recordings.load_recordings("judging", tmp_path)
    assert not recordings.load_recordings("choosing", tmp_path)
    assert np.array_equal(stored.is_clean, labels == clean)
    traces = selection.sequences([stored])
    assert [trace.rounds[0].n_epochs for trace in traces] == [2, 2]
    assert stored.name.split("_")[1] == "human-worse"  # the noise, as `benchmarks.selection` reads it
