"""The command's entry point: registers every command; imports what a command needs when it runs."""

import typer

from meltemi import __version__
from meltemi.cli import (
    analyze,
    explain,
    graph,
    image,
    inject,
    mesh,
    proxies,
    scope,
    serve,
    status,
    up,
    wait,
    workload,
)

app = typer.Typer(
    name="meltemi",
    help="A service mesh and its console: Istio's objects, Envoy's data plane.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True),
) -> None:
    """Start with `meltemi up --demo bookinfo`."""


app.command("up")(up.up)
app.command("down")(up.down)
app.command("status")(status.status)
app.command("kubeconfig")(mesh.kubeconfig)
app.command("serve")(serve.serve)
app.command("inject")(inject.inject)
app.command("proxy-status")(proxies.proxy_status)
app.command("proxy-config")(proxies.proxy_config)
app.command("graph")(graph.graph)
app.add_typer(image.app, name="image")
app.add_typer(scope.app, name="scope")
app.add_typer(workload.app, name="workload")
app.command("wait")(wait.wait)
app.command("explain")(explain.explain)
app.command("analyze")(analyze.analyze)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
