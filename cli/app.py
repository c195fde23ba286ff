"""The commands, each a few lines: what they do is elsewhere."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cli import options  # noqa: TC001 - typer reads the annotations
from cli.options import AsJson, StackName  # noqa: TC001 - as above
from cluster.console import Terminal, tell
from cluster.errors import CommandError
from cluster.stack.judge import findings
from cluster.stack.opened import DEFAULT_STACK, find_root, open_stack, stack_or_word
from platforms.registry import DEFAULT, begin
from platforms.registry import platform as platform_of

if TYPE_CHECKING:
    from cluster.stack.opened import Stack
    from platforms.base import Platform

app = typer.Typer(
    name="cluster",
    help="A Django project as several instances behind nginx: no request lost by any change.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _opened(name: str) -> tuple[Stack, Platform]:
    """Return a stack, and the same on its platform."""
    stack = open_stack(name)
    return stack, platform_of(stack, Terminal())


def _changing(name: str) -> tuple[Stack, Platform]:
    """Return a stack whose changes are looked at, and the same on its platform: what that takes begins first."""
    begin(find_root(), name)
    return _opened(name)


def _run(stack: str, words: list[str]) -> NoReturn:
    """Run a program once in the serving release, and end as it does."""
    from cli import commands  # noqa: PLC0415 - each command imports only what it needs

    _, on = _opened(stack)
    raise typer.Exit(commands.run(on, words))


@app.command()
def up(
    stack: StackName = DEFAULT_STACK,
    pull: Annotated[
        bool,
        typer.Option(
            "--pull", help="Platform docker: pull the base images first, and build all anew with security updates."
        ),
    ] = False,
    plan_digest: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Do what was planned (`plan --json` has the digest), or nothing."),
    ] = None,
) -> None:
    """Make the cluster what its stack file says, losing no request."""
    from cli import commands  # noqa: PLC0415 - each command imports only what it needs

    commands.up(*_changing(stack), pull=pull, plan_digest=plan_digest)


@app.command()
def plan(  # noqa: PLR0913, PLR0917 - a command's options
    stacks: options.Stacks = None,
    as_text: options.AsText = False,
    as_markdown: options.AsMarkdown = False,
    as_json: AsJson = False,
    exit_code: options.ExitCode = False,
    post: options.Post = None,
    gate: options.Gate = None,
    accepted_by: options.AcceptedBy = "writers",
    digest_file: options.DigestFile = None,
    against: options.Against = None,
) -> None:
    """Show what `up` would do and what it costs; nothing is changed."""
    from cli import planning  # noqa: PLC0415 - each command imports only what it needs

    chosen = [form for form, asked in ((planning.Form.TEXT, as_text), (planning.Form.MARKDOWN, as_markdown)) if asked]
    chosen += [planning.Form.JSON] if as_json else []
    names = stacks or [DEFAULT_STACK]
    if len(chosen) > 1:
        raise CommandError("--text, --markdown and --json: say one of them")
    if digest_file is not None and len(names) > 1:
        raise CommandError("--digest-file: is for one stack at a time")
    if digest_file is not None and against is not None:
        raise CommandError("--digest-file: is of what runs, and --against tells nothing of that: say one of them")
    pull = None
    if post is not None or gate is not None:
        from cli import pulls  # noqa: PLC0415

        pull = pulls.Wanted(post=post, gate=gate, accepted_by=accepted_by)
    with nullcontext() if pull is None else pull.watching():
        plans = (
            planning.against(against, stacks or [])
            if against is not None
            else planning.plan([_changing(names[0]), *map(_opened, names[1:])])
        )
    planning.show(plans, chosen[0] if chosen else planning.Form.TEXT)
    if digest_file is not None:
        planning.write_digest(plans[0], digest_file)
    accepted = pull is None or pull.carry_out(plans)
    raise typer.Exit(planning.status(plans, exit_code=exit_code, accepted=accepted))


@app.command()
def rollback(
    stack: StackName = DEFAULT_STACK,
    to: Annotated[str | None, typer.Option(help="A release that is still here; default: the one before.")] = None,
) -> None:
    """Let the release before serve again, by the same way as forward."""
    from cli import commands  # noqa: PLC0415

    commands.rollback(*_changing(stack), to)


@app.command()
def down(
    stack: StackName = DEFAULT_STACK,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete the database, sessions and secrets too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop everything, and keep the data."""
    from cli import commands  # noqa: PLC0415

    commands.down(*_opened(stack), delete_data=delete_data, yes=yes)


@app.command()
def forget_host(
    stack: Annotated[str, typer.Argument(help="The stack: stacks/Pulumi.STACK.yaml.")],
    host: Annotated[str, typer.Argument(help="Its name, which the stack file does not have any more.")],
    gone: Annotated[bool, typer.Option("--gone", help="Do not ask it: another machine has its address now.")] = False,
) -> None:
    """Go on without a host that is gone for good; one that answers is taken down by `up`."""
    from cli import commands  # noqa: PLC0415

    commands.forget_host(*_opened(stack), host, gone=gone)


@app.command()
def rotate_key(
    stack: StackName = DEFAULT_STACK,
    keep_fallback: Annotated[
        bool, typer.Option("--keep-fallback", help="End it without dropping the old key: it stays accepted.")
    ] = False,
    hosts: Annotated[
        bool, typer.Option("--hosts", help="Change what hosts are known by to each other, and the database's password.")
    ] = False,
) -> None:
    """Change SECRET_KEY, logging nobody out: say it again when told, and the old key goes."""
    from cli.rotating import run_rotate_hosts, run_rotate_key  # noqa: PLC0415

    if hosts:
        run_rotate_hosts(*_opened(stack), keep_fallback=keep_fallback)
    else:
        run_rotate_key(*_opened(stack), keep_fallback=keep_fallback)


@app.command()
def maintenance(  # noqa: PLR0913, PLR0917 - a command's options
    stack: StackName = DEFAULT_STACK,
    words: Annotated[list[str] | None, typer.Argument(metavar="[on|off]", help="Left out: say how it is.")] = None,
    message: Annotated[str | None, typer.Option(help="What the page says, in plain text.")] = None,
    retry_after: Annotated[
        str | None, typer.Option(help="When clients are told to try again: 10m, the default, or 1h30m.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="A network whose clients get the site as usual, 10.0.0.0/8; may be said again."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give visitors a page with status 503 in place of the site; no process of the app is touched."""
    stack, first = stack_or_word(stack, ("on", "off"))
    from cli.maintaining import run_maintenance  # noqa: PLC0415

    run_maintenance(
        *_opened(stack),
        [*first, *(words or [])],
        message=message,
        retry_after=retry_after,
        allow=allow or [],
        as_json=as_json,
    )


@app.command()
def status(
    stack: StackName = DEFAULT_STACK,
    drift: Annotated[
        bool, typer.Option("--drift", help="What was changed by hand, beside what the last `up` made, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what runs; exit status 0 only if all is as the stack file says."""
    from cli.showing import print_status, with_drift  # noqa: PLC0415

    opened, on = _opened(stack)
    found = with_drift(on.status(), on.drift()) if drift else on.status()
    print_status(opened, found, as_json=as_json)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def verify(stack: StackName = DEFAULT_STACK, as_json: AsJson = False) -> None:
    """Send real requests: shares against weights, a session through every instance, nothing else listening."""
    from cli.showing import print_checks  # noqa: PLC0415

    _, on = _opened(stack)
    if not print_checks(on.verify(), as_json=as_json):
        raise typer.Exit(1)


@app.command()
def logs(
    stack: StackName = DEFAULT_STACK,
    names: Annotated[
        list[str] | None, typer.Argument(help="Instances, or nginx, access, memcached1; default: all.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Last lines of each.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
) -> None:
    """Print the last lines of the logs."""
    stack, first = stack_or_word(stack)
    from cli import commands  # noqa: PLC0415

    commands.logs(*_opened(stack), [*first, *(names or [])], lines=lines, follow=follow)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def manage(context: typer.Context, stack: StackName = DEFAULT_STACK) -> None:
    """Run a management command in the serving release: cluster manage local -- createsuperuser."""
    stack, first = stack_or_word(stack)
    _run(stack, ["manage.py", *first, *context.args])


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context, stack: StackName = DEFAULT_STACK) -> None:
    """Run a program once in the serving release: cluster run local -- manage.py send_digest."""
    stack, first = stack_or_word(stack)
    words = [*first, *context.args]
    if not words:
        raise CommandError(f"say what to run: cluster run {stack} -- manage.py check")
    _run(stack, words)


@app.command()
def lint(stack: StackName = DEFAULT_STACK, as_json: AsJson = False) -> None:
    """Look for what is valid but unwise; exit status 1 where `up` would refuse."""
    from dataclasses import asdict  # noqa: PLC0415

    opened, on = _opened(stack)
    found = findings(opened.config, on.facts())
    if as_json:
        tell(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        for finding in found:
            tell(f"{finding.severity}: {finding}")
        if not found:
            tell("nothing found")
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


@app.command()
def render(
    stack: StackName = DEFAULT_STACK,
    diagram: Annotated[bool, typer.Option("--diagram", help="Draw the cluster as SVG instead.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the files into this directory.")] = None,
) -> None:
    """Print the nginx configuration that the stack file gives."""
    from cli.rendering import run_render  # noqa: PLC0415

    run_render(*_opened(stack), diagram=diagram, output=output)


@app.command()
def reference() -> None:
    """Print the reference of all keys of a stack file, and of all lints, as Markdown."""
    from cli.reference import render_reference  # noqa: PLC0415

    typer.echo(render_reference(), nl=False)


@app.command()
def init(  # noqa: PLR0913, PLR0917 - a command's options
    stacks: options.NewStacks,
    project: options.ProjectDirectory = None,
    platform: options.PlatformName = DEFAULT,
    settings: options.Settings = None,
    requirements: options.Requirements = None,
    python: options.PythonVersion = None,
    sessions: options.Sessions = None,
    no_import: options.NoImport = False,
    adopt: options.Adopt = False,
    force: options.Force = False,
    backend: options.Backend = None,
    secrets_provider: options.SecretsProvider = None,
    continuous: options.Forge = None,
) -> None:
    """Look at a Django project and write its stack file; without --project, set up a stack whose file is there."""
    if continuous is not None:
        from cli.pipelines import run_init_ci  # noqa: PLC0415

        if project is not None:
            raise CommandError("--ci is for stacks whose file is there: say it without --project")
        run_init_ci(stacks, continuous, force=force)
        return
    stack, *more = stacks
    if more:
        raise CommandError(f"one stack at a time, but with --ci: got {', '.join(stacks)}")
    if project is None:
        _set_up(stack, backend, secrets_provider)
        return
    if backend is not None or secrets_provider is not None:
        raise CommandError("--backend is for a stack whose file is there: say it without --project")
    from cli.initialise import Wanted, run_init  # noqa: PLC0415 - each command imports only what it needs

    importing = not no_import
    wanted = Wanted(platform, settings, requirements, python, sessions, importing=importing, adopt=adopt, force=force)
    run_init(stack, project, wanted)


def _set_up(stack: str, backend: str | None, secrets_provider: str | None) -> None:
    """Set up a stack whose file is there."""
    from platforms.base import Shared  # noqa: PLC0415

    _, on = _opened(stack)
    on.set_up(Shared(backend=backend, secrets_provider=secrets_provider))
    tell(f"stack {stack} is set up; next: cluster up {stack}")


__all__ = ["app"]
