from celery import shared_task

from orders import journal


def work(task, job, seconds):
    request = task.request
    redelivered = int(bool((request.delivery_info or {}).get("redelivered")))
    journal.work(job, seconds, redelivered, request.id)


@shared_task(bind=True, acks_late=True, reject_on_worker_lost=True)
def late(self, job, seconds):
    """Acknowledge a job when it is done: it is begun again when its worker is killed."""
    work(self, job, seconds)


@shared_task(bind=True)
def early(self, job, seconds):
    """Acknowledge a job when it begins, as Celery does by itself: it is gone when its worker is killed."""
    work(self, job, seconds)
