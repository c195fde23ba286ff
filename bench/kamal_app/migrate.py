"""Migrate before a container serves, one container after the other: Kamal starts them on all hosts at once."""

import django
from django.core.management import call_command
from django.db import connection

django.setup()
with connection.cursor() as cursor:
    cursor.execute("select pg_advisory_lock(1)")
    call_command("migrate", interactive=False, verbosity=0)
