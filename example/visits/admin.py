"""The guest book in Django's admin."""

from django.contrib import admin

from visits.models import Entry

admin.site.register(Entry)
