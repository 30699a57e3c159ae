import socket

import pytest

from rsic_diffusers import GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline


@pytest.fixture(scope="session")
def quick_decoder(decoder):
    """One diffusion step: the page is under test, not the picture."""
    scheduler = GuidedSelfRecurrentDDIMScheduler.from_config(decoder.scheduler.config, num_inference_steps=1)
    pipeline = RSICDecoderPipeline(**{**decoder.components, "scheduler": scheduler})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def elsewhere():
    """Addresses beyond this computer that the process asked for."""
    asked, connect, find = [], socket.socket.connect, socket.getaddrinfo

    def recording_connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            asked.append(address)
        return connect(self, address)

    def recording_find(host, *args, **kwargs):
        if host not in (None, "", "127.0.0.1", "localhost", "::1"):
            asked.append(host)
        return find(host, *args, **kwargs)

    socket.socket.connect, socket.getaddrinfo = recording_connect, recording_find
    yield asked
    socket.socket.connect, socket.getaddrinfo = connect, find


@pytest.fixture(scope="session")
def page_address(encoder, quick_decoder, elsewhere):
    """Address of the page, served by this process."""
    pytest.importorskip("gradio_image_annotation", reason='the page needs pip install "rsic-diffusers[app]"')
    from rsic_diffusers.app.page import build_page, launch

    page = build_page(encoder, quick_decoder)
    address = launch(page, "127.0.0.1", wait=False)
    assert elsewhere == []  # no telemetry, no look for a newer version
    yield address
    page.close()
