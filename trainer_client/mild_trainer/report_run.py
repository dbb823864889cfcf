"""The report of a run that only a service holds: its rounds and its samples, without a training's settings."""

from pathlib import Path

from mild_client import MildClient
from mild_trainer import report, report_page, report_samples, told
from mild_trainer.review_runs import ServiceRun, Training, opened


def write(run: str, url: str | None, api_key: str | None, path: Path) -> Path:
    """Write the report of a training's folder, or of a run of a service, and return its path.

    Raises
    ------
    ReviewError
        If there is no such training, or its service is not named.
    """
    folder = Path(run)
    if not folder.is_dir() and url is not None:
        with MildClient(url, api_key=api_key) as client:
            page = of_service(client, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        return path
    with opened(run, url, api_key) as reviewed:
        training = Training.read(folder)
        samples = report_samples.gather(reviewed, training, training.data())
    return report.write(path, training.numbers(), samples)


def of_service(client: MildClient, run_id: str) -> str:
    """Return the page of a service's run."""
    known = client.get_run(run_id)
    numbers = [each["round"] for each in known["rounds"] if each["state"] == "finished"] or [0]
    found = [(number, client.selection(run_id, number), client.fit(run_id, number)) for number in numbers]
    rows = []
    for number, selection, _ in found:
        noise = selection["estimated"]["noise_rate"]
        kept = f"{selection['num_selected']:,}"
        rows.append((str(number), kept, told.number(noise and noise["value"]), selection["verdict"]))
    samples = report_samples.gather(ServiceRun(client, run_id, None), None, None)
    body = (
        report_page.cards([("samples kept", rows[-1][1]), ("noise, estimated", rows[-1][2])]),
        "<h2>Rounds</h2>",
        report_page.table(("round", "kept", "noise estimated", "verdict"), map(report_page.row, rows)),
        report.histograms(found),
        report_samples.render(samples),
    )
    return report_page.page(f"Run {run_id}", f"{known['num_samples']:,} samples", "\n".join(body))
