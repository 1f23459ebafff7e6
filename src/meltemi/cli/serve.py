"""serve: the control plane itself, against any Kubernetes API."""

import datetime
import os
from pathlib import Path
from typing import Annotated

import typer


def serve(
    kubeconfig: Annotated[
        Path | None, typer.Option(help="The API to serve; default: the cluster this runs in.")
    ] = None,
    run_dir: Annotated[Path, typer.Option(help="Where unix sockets go.")] = Path("/run/meltemi"),
    console_port: Annotated[int, typer.Option(help="The console's port.")] = 20001,
    host: Annotated[str, typer.Option(help="The address the ports listen on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(help="xDS and CA over mutual TLS.")] = 15012,
    webhook_port: Annotated[int, typer.Option(help="The injector's HTTPS port.")] = 15017,
    monitoring_port: Annotated[int, typer.Option(help="Metrics and debug endpoints.")] = 15014,
    webhook_url: Annotated[
        str, typer.Option(help="How the API reaches the webhook; default: its Service.")
    ] = "",
    cert_lifetime: Annotated[float, typer.Option(help="Hours.")] = 24.0,
) -> None:
    """Run the control plane until SIGTERM.

    Example: meltemi serve --kubeconfig ~/.kube/config
    """
    from meltemi.app.options import Options, cache_dir
    from meltemi.app.serve import run

    run(
        Options(
            kubeconfig=kubeconfig,
            run_dir=run_dir,
            xds_socket=run_dir / "xds.sock",
            cache_dir=cache_dir(os.environ),
            console_port=console_port,
            grpc_port=grpc_port,
            webhook_port=webhook_port,
            monitoring_port=monitoring_port,
            host=host,
            webhook_url=webhook_url,
            certificate_lifetime=datetime.timedelta(hours=cert_lifetime),
        )
    )
