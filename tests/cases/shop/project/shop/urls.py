from django.urls import path

from orders import views

urlpatterns = [path("", views.index), path("jobs", views.jobs), path("whoami", views.whoami)]
