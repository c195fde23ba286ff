import os

from django.http import HttpResponse, JsonResponse

from orders import tasks


def index(request):
    return HttpResponse("ok\n")


def whoami(request):
    """Count a visit in the session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    told = {name: os.environ.get(f"CLUSTER_{name.upper()}", "") for name in ("instance", "release")}
    return JsonResponse({**told, "visits": request.session["visits"]})


def jobs(request):
    """Enqueue a job; it is acknowledged once the broker has it."""
    job, kind = request.POST["job"], request.POST["kind"]
    sent = {"late": tasks.late, "early": tasks.early}[kind].delay(job, float(request.POST["seconds"]))
    return JsonResponse({"job": job, "task": sent.id})
