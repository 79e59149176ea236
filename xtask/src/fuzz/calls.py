"""Calls every operation of the client that was generated into ./client, and compares what there is with the document."""

import importlib
import inspect
import json
import pkgutil
import sys
import typing
import urllib.request

import client.api
from client import Client

# What fits each parameter by its name; all others are left out.
ARGUMENTS = {"id": "hello", "workflow_id": "hello", "run_id": "none", "node_id": "a", "queue": "workflow.execution"}
# What fits each body, by the operation; the others have no fields that they need.
BODIES = {
    "put_workflow": {"id": "hello", "nodes": [{"id": "a", "uses": "set"}]},
    "put_schedule": {"workflow_id": "hello", "every": "1h"},
    "signal_run": {"event": "go"},
    "signal_key": {"event": "go", "key": "k"},
    "decide": {"decision": "approve", "by": "ada"},
}
# What is there to be done; the others may be refused, as there is no such run or letter.
TAKEN = {"put_workflow", "put_schedule", "signal_key"}


def body_of(name, annotation):
    """An argument for a body: what the first class that the annotation names makes of it."""
    for choice in getattr(annotation, "__args__", (annotation,)):
        if hasattr(choice, "from_dict"):
            return choice.from_dict(BODIES.get(name, {}))
        if choice is typing.Any:
            return {"any": "thing"}
    raise TypeError(f"{name} takes {annotation}")


def operations(url):
    """The names of the document's operations."""
    document = json.load(urllib.request.urlopen(url + "/api/openapi.json"))
    items = document["paths"].values()
    return {operation["operationId"] for item in items for operation in item.values()}


def call(name, function, here):
    """Calls an operation with what fits; the status of its answer."""
    parameters = inspect.signature(function).parameters
    # Of a list they are filters.
    fits = {} if name.startswith("list_") else ARGUMENTS
    arguments = {key: fits[key] for key in parameters if key in fits}
    if "body" in parameters:
        arguments["body"] = body_of(name, parameters["body"].annotation)
    return int(function(client=here, **arguments).status_code)


def main():
    url = sys.argv[1]
    here = Client(base_url=url, timeout=30)
    called = {}
    for module in pkgutil.walk_packages(client.api.__path__, "client.api."):
        if not module.ispkg:
            name = module.name.rsplit(".", 1)[1]
            function = importlib.import_module(module.name).sync_detailed
            called[name] = call(name, function, here)
    missing = operations(url) - called.keys()
    broken = {name: status for name, status in called.items() if status >= (400 if name in TAKEN else 500)}
    print(f"{len(called)} operations called: {called}")
    if missing or broken:
        sys.exit(f"missing: {sorted(missing)}, broken: {broken}")


main()
