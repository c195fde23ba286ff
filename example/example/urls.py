"""The example's URLs."""

from django.contrib import admin
from django.urls import path
from visits import views

urlpatterns = [
    path("", views.home),
    path("whoami", views.whoami),
    path("form", views.form),
    path("slow", views.slow),
    path("boom", views.boom),
    path("admin/", admin.site.urls),
]
