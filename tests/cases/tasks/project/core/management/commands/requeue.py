from datetime import timedelta

from django.core.management.base import BaseCommand
from django.utils import timezone
from django_tasks import TaskResultStatus
from django_tasks_db.models import DBTaskResult


class Command(BaseCommand):
    """Give jobs back to the queue whose worker is no more: the database has them as running, for ever."""

    def add_arguments(self, parser):
        parser.add_argument("--older-than", type=float, required=True, help="seconds; more than any job takes")

    def handle(self, *, older_than, **options):
        since = timezone.now() - timedelta(seconds=older_than)
        for result in DBTaskResult.objects.running().filter(started_at__lt=since):
            status = {"status": TaskResultStatus.READY, "started_at": None}
            if DBTaskResult.objects.running().filter(pk=result.pk, started_at=result.started_at).update(**status):
                self.stdout.write(f"given back: {result.args_kwargs['args'][0]}")
