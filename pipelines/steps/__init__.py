"""The platform's own steps, one module per stage of a run. `MODULES` says where each step lives."""

MODULES = {
    "claim": "claim",
    "checkout": "source",
    "validate-config": "source",
    "built": "emit",
    "accepted": "emit",
    "status": "emit",
    "plan": "plan",
    "validate-data": "data",
    "analyze": "data",
    "evaluate": "evaluate",
    "gate": "decide",
    "register": "register",
    "release": "release",
    "inspect": "verify",
    "wait": "verify",
    "smoke": "verify",
    "keep": "verify",
    "revert": "verify",
    "reconcile": "reconcile",
    "fetch": "fetch",
}
