"""What a version of the interface promises, gathered from its OpenAPI document.

``python -m tests.service.api.promise > docs/api-1.json`` after a release, so that what it has added is promised too.
"""

import json
import sys
from typing import Any

from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.web.problems import describe_problems

Json = dict[str, Any]


def promised(document: Json) -> Json:
    """Routes with their parameters, bodies and fields; problems with their status."""
    routes = {
        f"{method.upper()} {path}": _route(operation, document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    return {"routes": routes, "problems": {code: problem["status"] for code, problem in describe_problems().items()}}


def _route(operation: Json, document: Json) -> Json:
    parameters = operation.get("parameters", [])
    body = operation.get("requestBody", {})
    return {
        "parameters": sorted(f"{parameter['in']} {parameter['name']}" for parameter in parameters),
        "required": sorted(p["name"] for p in parameters if p["in"] != "path" and p.get("required")),
        "takes": {kind: _fields(content, document) for kind, content in sorted(body.get("content", {}).items())},
        "gives": {
            status: {kind: _fields(content, document) for kind, content in sorted(answer.get("content", {}).items())}
            for status, answer in sorted(operation["responses"].items())
            if status < "400"
        },
    }


def _fields(content: Json, document: Json) -> list[str]:
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return sorted(schema.get("properties", {}))


if __name__ == "__main__":
    app = create_app(Settings(store_url="redis://localhost"))
    json.dump(promised(app.openapi()), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
