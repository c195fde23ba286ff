"""Platform local: the cluster on this machine, under Supervisor, without Docker, Pulumi or root."""
