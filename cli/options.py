"""The arguments and options of commands that have many, or share them; typer reads their help from here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from platforms.registry import names

StackName = Annotated[str, typer.Argument(metavar="[STACK]", help="The stack: stacks/Pulumi.STACK.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]

# --- plan

Stacks = Annotated[list[str] | None, typer.Argument(metavar="[STACK]...", help="The stacks: stacks/Pulumi.STACK.yaml.")]
AsText = Annotated[bool, typer.Option("--text", help="For a terminal: the default.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="For a pull request.")]
ExitCode = Annotated[
    bool, typer.Option("--exit-code", help="Exit status 2 where something would change, 1 where `up` refuses.")
]
Post = Annotated[str | None, typer.Option(metavar="FORGE", help="Comment on the job's pull request: github or gitlab.")]
Gate = Annotated[
    str | None,
    typer.Option(metavar="FORGE", help="Exit status 3 where the job's pull request does not accept what it costs."),
]
AcceptedBy = Annotated[
    str, typer.Option(help="Who may accept: labels, writers (labels, and authors who may push), or anyone.")
]
DigestFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Append plan_digest=… and plan_changes=… for a later job.")
]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="git:REVISION",
        help="Compare the files of a revision with those here, of all stacks where none is named: no cluster, "
        "engine or secret is asked.",
    ),
]

# --- init

NewStacks = Annotated[list[str], typer.Argument(metavar="STACK...", help="The stack's name; with --ci, all of them.")]
ProjectDirectory = Annotated[Path | None, typer.Option(help="The directory that holds manage.py.")]
PlatformName = Annotated[str, typer.Option(help=f"{' or '.join(names())}.")]
Settings = Annotated[str | None, typer.Option(help="The settings module; default: wsgi.py's or manage.py's.")]
Requirements = Annotated[str | None, typer.Option(help="The requirements file, from the project's directory.")]
PythonVersion = Annotated[
    str | None, typer.Option(help="The version of Python, 3.13 for one; default: what the project asks for.")
]
Sessions = Annotated[str | None, typer.Option(help="The session engine; default: the project's own.")]
NoImport = Annotated[bool, typer.Option("--no-import", help="Read the project's files only, and run none of its code.")]
Adopt = Annotated[bool, typer.Option("--adopt", help="Take over the project's sqlite database and its SECRET_KEY.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")]
Backend = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Keep Pulumi's state where a team finds it: s3://, gs://, azblob://, https:// (Pulumi's cloud), file:///.",
    ),
]
SecretsProvider = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="What encrypts the stack's secrets: passphrase (the default), awskms://, azurekeyvault://, gcpkms://, "
        "hashivault://.",
    ),
]
Forge = Annotated[
    str | None,
    typer.Option(
        "--ci",
        metavar="FORGE",
        help="Write the files that plan pull requests and deploy what is merged: github or gitlab.",
    ),
]
