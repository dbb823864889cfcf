import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mild_trainer import cli
from tests.client.wire import Reply, serving


@pytest.mark.parametrize(
    ("flags", "media_type"), [([], "application/x-ndjson"), (["--cartography"], "application/x-cartography+ndjson")]
)
def test_the_command_sends_a_log_and_prints_what_became_of_it(
    flags: list[str], media_type: str, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"epoch": 0, "sample": 0, "correct": 1}\n')
    epoch = {"round": 0, "epoch": 0, "state": "committed"}
    answer = Reply(body=json.dumps({"records": 1, "epochs": [epoch]}).encode())
    with serving(answer) as server:
        arguments = ["push", str(log), "--url", server.url, "--run-id", "a", "--complete", *flags]
        result = CliRunner().invoke(cli.app, arguments)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"run_id": "a", "records": 1, "epochs": [epoch]})
    (sent,) = server.sent
    assert sent.line == b"POST /runs/a/predictions?complete=true HTTP/1.1\r\n"
    assert (sent.header("Content-Type"), sent.body) == (media_type, log.read_bytes())


def test_an_extension_that_says_nothing_is_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.touch()
    with serving() as server:
        result = CliRunner().invoke(cli.app, ["push", str(log), "--url", server.url, "--run-id", "a"])
    assert result.exit_code == 2
    assert result.output.startswith("error: the extension of 'log.txt' is none of .json, ")
