"""The app's configuration."""

from django.apps import AppConfig


class VisitsConfig(AppConfig):
    name = "visits"
