"""What schemathesis is told beside ``schemathesis.toml``."""

from typing import Any

import schemathesis
from schemathesis import Case, HookContext


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, object]) -> None:
    """Let deletions miss the seeded runs: behind the first of them every other route would only say 404."""
    if case.method.upper() == "DELETE" and case.path_parameters.get("run_id") in ("recorded", "empty", "finished"):
        case.path_parameters["run_id"] = "spare"
