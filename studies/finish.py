"""Whether MixMatch or contrastive training after the selection helps: the benchmark's figures, and on a GPU in full."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.finishing import PLAIN, RESULTS
from studies.programme import SEEDS, Case, Inputs, Row, format_table
from studies.trainings import load_case, make_cases, make_settings, record_training

TITLE = "Finishing with the dropped samples: MixMatch, contrastive"
FINISHES = ("supervised", "mixmatch", "contrastive")
_TEXT = """After the last round a fresh network is trained on the kept set (`supervised`), or on the dropped samples
too, without their labels. All finishes of a line share the set and the number of passes. A row is lost, and in bold,
where the finish is less accurate than `supervised`.

The figures are those of `python -m benchmarks.finishing --seeds 0 1 2 3 4 --data-dir data`
([finishing.md](../benchmarks/results/finishing.md), five seeds, no halves: nothing was chosen by them), on digits and
on 5,000 images of CIFAR-10 of 16 x 16 pixels: small networks and short budgets, no case for methods made for hundreds
of epochs. So this says where they do not help, and not that they never do.

Mini-WebVision, the paper's other data set, is read (`--dataset webvision --classes 50`, tested on a made-up folder in
`tests/trainer/test_webvision.py`), and was not trained on: its pictures were not at hand.
"""


def list_cases(inputs: Inputs) -> list[Case]:
    """List the benchmark's figures, or on a GPU a training for each finish."""
    if inputs.profile == "cpu":
        return [{"data": "benchmark", "half": inputs.half, "seed": SEEDS[inputs.half][0]}]
    return make_cases(inputs, (), 3, ("symmetric:0.4", "symmetric:0.8", "pairflip:0.4"), finish=FINISHES)


def run_case(case: Case, inputs: Inputs) -> Mapping[str, Any]:
    """Read the benchmark's figures, or train over all rounds and finish."""
    if case["data"] == "benchmark":
        return {"outcomes": json.loads((RESULTS / "finishing.json").read_text())}
    settings = make_settings(case, finish=case["finish"], finish_epochs=300, ema=0.999)
    result = record_training(settings, load_case(case, inputs)).history.finish_result
    assert result is not None
    outcome = {"case": f"{case['data']}:{case['noise']}", "budget": 300, "seed": case["seed"]}
    return {"outcomes": [{**outcome, "variant": str(case["finish"]), "test_accuracy": result.test_accuracy}]}


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return the accuracy of each finish beside that of plain training on the same set."""
    accuracies: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    for outcome in (outcome for row in rows for outcome in row.result["outcomes"]):
        group = accuracies.setdefault((outcome["case"], outcome["budget"]), {})
        group.setdefault(outcome["variant"], {})[outcome["seed"]] = outcome["test_accuracy"]
    lines, helps = [], []
    for (case, budget), group in accuracies.items():
        for finish in FINISHES:
            if finish == PLAIN or finish not in group or PLAIN not in group:
                continue
            pairs = [(value, group[PLAIN][seed]) for seed, value in group[finish].items() if seed in group[PLAIN]]
            gain = fmean(value - plain for value, plain in pairs)
            n_won = sum(value > plain for value, plain in pairs)
            name = f"{case}, {budget} epochs, {finish}"
            if gain > 0 and n_won > len(pairs) / 2:
                helps.append(f"{name} ({gain:+.3f}, {n_won} of {len(pairs)} seeds)")
            means = (fmean(group[PLAIN].values()), fmean(group[finish].values()))
            cells = [str(len(pairs)), *(f"{mean:.3f}" for mean in means), f"{n_won} of {len(pairs)}"]
            lines.append((gain, [f"**{name}**" if gain < 0 else name, *cells]))
    n_lost = sum(gain < 0 for gain, _ in lines)
    finding = (
        f"It does not help in {n_lost} of {len(lines)} rows. It helps, in most seeds: {'; '.join(helps) or 'nowhere'}."
    )
    heads = ("case, budget, finish", "seeds", "accuracy, supervised", "accuracy", "ahead in")
    return f"{_TEXT}\n{finding}\n\n{format_table(heads, [line for _, line in sorted(lines)])}"
