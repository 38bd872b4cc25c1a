"""Speaks the protocol of the processes that ask engines: answers, or a fault, as the environment names them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

ANSWERS = json.loads(os.environ.get("STAND_IN_ANSWERS", "{}"))
FAULT = os.environ.get("STAND_IN_FAULT", "")

for line in sys.stdin:
    request = json.loads(line)
    what = request.get("do", "ask")
    if "STAND_IN_HEARD" in os.environ:
        with open(os.environ["STAND_IN_HEARD"], "a", encoding="utf-8") as heard:  # noqa: PTH123  a script
            heard.write(line)
    if what == "ask" and FAULT == "crash":
        sys.stderr.write("Segmentation fault, says nobody\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "ask" and FAULT == "hang":
        time.sleep(600)
    if what == "ask" and FAULT == "garbage":
        sys.stdout.write("INFO 08-22 loading\n")
    else:
        sys.stdout.write(json.dumps(ANSWERS.get(what, {"ok": True})) + "\n")
    sys.stdout.flush()
