"""A process that calls a reward function: ``python -m posttrain.rewards.worker NAME FIELD MEMORY``; one JSON line in, one out.

In: `[prompts, responses, rows or null]`. Out: `{"verdicts": [[reward, extracted], …]}` or `{"error": "…"}`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from typing import Any

from posttrain.rewards.calls import said
from posttrain.rewards.functions import as_verdict, import_function

LONGEST = 2_000  # characters of what a verdict says was read


def main(name: str, field: str, memory: str) -> None:
    """Answer until the input ends. What the function prints goes to standard error, since standard output is the answers'."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if int(memory):
        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    function = import_function(name, field)
    print(json.dumps({"verdicts": []}), file=answers, flush=True)  # it is there
    for line in sys.stdin:
        prompts, responses, rows = json.loads(line)
        given = (prompts, responses) if rows is None else (prompts, responses, rows)
        answer: dict[str, Any]
        try:
            verdicts = [as_verdict(each) for each in function(*given)]
            answer = {"verdicts": [[each.reward, each.extracted and each.extracted[:LONGEST]] for each in verdicts]}
        except (Exception, SystemExit) as error:  # of the user's function, which may raise anything
            answer = {"error": said(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _end_with(parent: int) -> None:
    """End this process once its parent has, in the middle of a call too; the system's own signal comes when a thread ends."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
