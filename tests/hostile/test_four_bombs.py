"""Four bombs at once, at the default settings, seen from outside."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from tests.hostile import media
from tests.hostile.attack import attacked_gate, check_unharmed, send
from tests.hostile.conftest import BANKED, HARMLESS
from tests.hostile.watch import Pulse, Residence, bare_server, resident_bytes_of_all

MEBIBYTE = 2**20
MOST_RESIDENT_BYTES = 1536 * MEBIBYTE
LONGEST_PULSE_SECONDS = 1


def _bombs() -> list[bytes]:
    """Each has 50 MiB of nothing behind its picture, but for the last.

    A PNG of 100 million pixels in 300 KB asks for nearly all memory that there is for decoding. Three ask for
    half of it: a progressive JPEG of 25 million pixels, which holds all coefficients, an animation of 12
    million, each frame composed anew, and a WebP of 14 million in 36 bytes.
    """
    nothing = bytes(50 * MEBIBYTE)
    slope = Image.linear_gradient("L")
    frame, jpeg = slope.resize((3_500, 3_500)), slope.resize((5_000, 5_000)).convert("RGB")
    webp = media.webp_chunk(3_700, 3_700)
    return [
        media.png(10_000, 10_000, media.chunk(b"IDAT", media.zeros(287))) + nothing,
        media.encoded(jpeg, "JPEG", progressive=True, subsampling=0) + nothing,
        media.encoded(frame, "GIF", save_all=True, append_images=[frame.transpose(Image.Transpose.ROTATE_90)])
        + nothing,
        media.riff((webp[:4], webp[8:])),
    ]


def test_four_bombs_at_once_neither_fill_the_memory_nor_stop_the_pulse(tmp_path: Path) -> None:
    """The whole service stays under 1.5 GiB resident, and tells within a second that it lives.

    Beyond what the machine, where other tests run too, keeps anybody waiting meanwhile.
    """
    with attacked_gate(tmp_path, BANKED, decoders=2) as gate, bare_server() as bare:
        bombs, client = _bombs(), gate.client()
        before = resident_bytes_of_all(gate.process.pid)
        with (
            Residence(gate.process.pid) as residence,
            Pulse(gate.port) as pulse,
            Pulse(bare) as machine,
            ThreadPoolExecutor(len(bombs)) as pool,
        ):
            told = {outcome.told for outcome in pool.map(lambda bomb: send(client, bomb), bombs)}
        assert told <= {"clear", "low_quality", "decode_timeout"}
        assert residence.most_bytes < MOST_RESIDENT_BYTES
        assert pulse.mistakes == []
        assert max(pulse.seconds) < LONGEST_PULSE_SECONDS + max(machine.seconds)
        assert residence.most_bytes - before > 500 * MEBIBYTE, "the bombs did not go off"
        assert send(gate.client(), HARMLESS).told == "clear"
        assert send(gate.client(), BANKED).told == "match"
    check_unharmed(gate)
