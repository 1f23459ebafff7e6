"""The local platform hands the control plane its options as one JSON argument."""

import datetime
from pathlib import Path

from meltemi.app.options import options_from_json
from meltemi.local.home import Home
from meltemi.local.supervise import components


def test_the_control_plane_reads_what_the_supervisor_writes(tmp_path: Path) -> None:
    home = Home(tmp_path)
    parts = components(home, (3, 4, 5, 6), images=None, cert_lifetime=2.0)
    control = next(part for part in parts if part.name == "control-plane")
    options = options_from_json(control.argv[-1], {"XDG_CACHE_HOME": "/cache"})
    assert options.kubeconfig == home.kubeconfig
    assert options.xds_socket == home.xds_socket
    assert options.console_fd == 3
    assert options.cache_dir == Path("/cache/meltemi")
    assert options.certificate_lifetime == datetime.timedelta(hours=2)
    assert options.console_port == 20001
