from django.http import HttpResponse, JsonResponse

from orders import tasks


def index(request):
    return HttpResponse("ok\n")


def jobs(request):
    """Enqueue a job; it is acknowledged once the broker has it."""
    job, kind = request.POST["job"], request.POST["kind"]
    sent = {"late": tasks.late, "early": tasks.early}[kind].delay(job, float(request.POST["seconds"]))
    return JsonResponse({"job": job, "task": sent.id})
