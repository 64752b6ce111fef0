"""Show what came of changes that a running mesh was to take."""

from __future__ import annotations

from langmesh.cli.terminal import say, say_error, say_json, styled
from langmesh.stack.reload import Reload


def show(what: Reload, *, as_json: bool) -> None:
    """Print what came of a change, or that a service is down until the next one."""
    files, services, problem = ", ".join(what.files), ", ".join(what.services), what.problem
    if as_json:
        error = None
        if problem is not None:
            error = {"code": problem.code, "message": problem.message, "remedy": problem.remedy}
        told = {
            "files": what.files,
            "services": what.services,
            "seconds": round(what.seconds, 3),
            "error": error,
        }
        say_json({"reload": told})
    elif problem is None:
        say(styled(f"reloaded {files} in {what.seconds:.1f} s: {services}", "green"))
    else:
        say_error(problem, as_json=False)
        if files:
            say(styled(f"not reloaded: {files}; the code of before goes on", "yellow"))
