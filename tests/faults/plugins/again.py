"""A method that is well but for what the environment asks of its third epoch, so that its source stays the same."""

import os
import signal
import time

import torch.nn.functional as F

from sdbench import Method, register


@register("fault_again")
class Again(Method):
    """Cross-entropy and, where FAULT_AGAIN names one, a fault."""

    def before_epoch(self, epoch, epochs):
        self.epoch = epoch

    def criterion(self, output, batch, progress):
        loss = F.cross_entropy(output.logits.float(), batch.labels)
        fault, _, number = os.environ.get("FAULT_AGAIN", "").partition(":")
        if self.epoch == 2 and fault:
            print("the last thing it said")
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault == "exit":
                os._exit(int(number))
            elif fault == "memory":
                raise MemoryError("another process took it")
            elif fault == "input":
                raise OSError(5, "Input/output error")
            elif fault == "hang":
                time.sleep(600)
            elif fault == "nan":
                loss = loss * float("nan")
        return {"ce": loss}
