"""Pages that show which instance answers, and what a session remembers."""

import os
import time

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import ensure_csrf_cookie

from visits.models import Entry

LONGEST_SLEEP = 60.0


def _who(request: HttpRequest) -> dict[str, object]:
    return {
        "instance": os.environ.get("CLUSTER_INSTANCE", ""),
        "release": os.environ.get("CLUSTER_RELEASE", ""),
        "visits": request.session.get("visits", 0),
    }


def home(request: HttpRequest) -> HttpResponse:
    """A page with a style sheet."""
    return render(request, "visits/home.html", _who(request))


def whoami(request: HttpRequest) -> JsonResponse:
    """Count a visit in the session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse(_who(request))


@ensure_csrf_cookie
def form(request: HttpRequest) -> HttpResponse:
    """GET: a form with a CSRF token. POST: store an entry and answer it as JSON."""
    if request.method != "POST":
        return render(request, "visits/form.html", {"entries": Entry.objects.order_by("-id")[:10]})
    text = request.POST.get("text", "")
    if not text:
        return HttpResponseBadRequest("text is missing")
    entry = Entry.objects.create(text=text[:200])
    return JsonResponse({**_who(request), "id": entry.pk, "text": entry.text})


def slow(request: HttpRequest) -> HttpResponse:
    """Answer after `seconds`."""
    try:
        seconds = float(request.GET.get("seconds", "1"))
    except ValueError:
        return HttpResponseBadRequest("seconds must be a number")
    time.sleep(min(max(seconds, 0.0), LONGEST_SLEEP))
    return JsonResponse(_who(request))


def boom(_request: HttpRequest) -> HttpResponse:
    """Fail."""
    raise RuntimeError("boom")
