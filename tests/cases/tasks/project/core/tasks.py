from django_tasks import task

from core import journal


@task()
def job(job, seconds):
    journal.work(job, seconds)
