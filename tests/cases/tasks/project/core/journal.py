"""Where jobs write that they start and end: whole lines, none of which another one overwrites."""

import os
import time

from django.conf import settings


def process():
    """Tell this process from any other, as it can be told from outside its container too."""
    with open("/proc/self/stat") as stat:
        began = stat.read().rpartition(")")[2].split()[19]
    return f"{os.environ.get('CLUSTER_SERVICE', '')}:{os.getpid()}:{began}"


def write(*words):
    """Append a line by one write(2): it is kept from then on, also when the process is killed."""
    descriptor = os.open(settings.JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o664)
    try:
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(descriptor)


def work(job, seconds, *words):
    """Do the work of a job: it takes its time, unless a file `enough` beside the journal says that it was enough."""
    write("start", job, process(), time.monotonic(), seconds, *words)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not settings.JOURNAL.with_name("enough").exists():
        time.sleep(min(left, 0.05))
    write("end", job, process(), time.monotonic(), seconds, *words)
