"""`flowclf explore`."""

from pathlib import Path
from typing import Annotated

import typer

from flowclf.cli.output import DataDir, Device, Where, message


def explore(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A trained run, or several to compare.")
    ],
    port: Annotated[int, typer.Option(help="Of 127.0.0.1; 0: a free one.", min=0, max=65535)] = 0,
    export: Annotated[
        Path | None, typer.Option(help="Write the page of one run as one offline .html file.")
    ] = None,
    ort: Annotated[
        Path | None, typer.Option(help="Folder with the files of onnxruntime-web, for --export.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    data_dir: DataDir = None,
    device: Where = Device.auto,
) -> None:
    """Open a page about a model: its latent plane, walks, drawings, samples, and two runs compared.

    It is served on this machine alone, to whoever has the printed address, until Ctrl-C.
    """
    import secrets
    import webbrowser
    from threading import Thread

    import torch

    from flowclf.explore import load_explorers
    from flowclf.support.errors import UserError

    if export is not None:
        from flowclf.explore.export import fetch_runtime, write_page

        if len(runs) != 1:
            raise UserError(f"expected one run to --export, got {len(runs)}; export each by itself")
        runtime = fetch_runtime() if ort is None else ort
        written = write_page(load_explorers(runs, data_dir, "cpu")[0], export, runtime)
        print(f"page     {export}")
        print(f"size     {written['bytes'] / 1e6:.1f} MB")
        return
    try:
        from flowclf.explore.server import open_socket, serve
    except ImportError as error:
        raise UserError(
            f"flowclf explore needs {error.name}: pip install 'flowclf[explore]'"
        ) from None
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))  # the browser wants a core, too
    with open_socket(port) as listening:
        explorers = load_explorers(runs, data_dir, device.value)
        token = secrets.token_urlsafe(24)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/?token={token}"
        print(address, flush=True)
        message("Ctrl-C ends it")
        for explorer in explorers:
            Thread(target=explorer.prepare, daemon=True).start()
        if browser:
            webbrowser.open(address)
        serve(explorers, listening, token)
