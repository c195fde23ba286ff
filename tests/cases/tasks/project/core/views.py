from django.http import HttpResponse, JsonResponse

from core import tasks


def index(request):
    return HttpResponse("ok\n")


def jobs(request):
    """Enqueue a job; it is acknowledged once the database has it."""
    result = tasks.job.enqueue(request.POST["job"], float(request.POST["seconds"]))
    return JsonResponse({"job": request.POST["job"], "task": result.id})
