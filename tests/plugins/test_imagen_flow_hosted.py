"""Pictures by hosted services: requests as the service's own client makes them, answers that are
not trusted, and a key that no file, log or message ever holds.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import imagen_flow as flow
from imagen_flow import services
from imagen_flow.errors import NodeError
from imagen_flow_hosted import client
from imagen_flow_hosted.nodes import edit, generate

_spec = importlib.util.spec_from_file_location(
    "images_service", Path(__file__).with_name("images_service.py")
)
assert _spec is not None and _spec.loader is not None
service = sys.modules.setdefault("images_service", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(service)
Answer, drawn, png, running = service.Answer, service.drawn, service.png, service.running

SECRET = "sk-test-0123456789abcdef"

GRAPH = """
imagen_flow: 1
inputs: {prompt: a red fox, take: 0}
nodes:
  picture: {type: openai.generate, model: gpt-image-2.5-flare, prompt: "${prompt}", take: "${take}"}
outputs:
  picture: {from: "${picture}", path: "fox-{take}.png"}
  usage: {from: "${picture.usage}", path: "usage.json"}
"""


@pytest.fixture(autouse=True)
def account(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(services, "FIRST_WAIT_S", 0.001)


def asking(monkeypatch, found):
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)


def to_end(steps):
    """Run a node to its end; give its notes and its outputs."""
    notes = []
    while True:
        try:
            notes.append(next(steps).note)
        except StopIteration as end:
            return [note for note in notes if note], end.value


def refusal(steps):
    with pytest.raises(services.ServiceError) as caught:
        to_end(steps)
    return str(caught.value)


def drawing(monkeypatch, answer, **params):
    """Give why a picture cannot be had of a service that answers so, and how often it was asked."""
    with running(lambda count, asked: answer) as found:
        asking(monkeypatch, found)
        return refusal(generate("a fox", model="gpt-image-2.5-flare", **params)), len(found.asked)


def test_a_picture_is_asked_for_as_the_services_client_does(monkeypatch):
    """The request holds what was said and nothing more; the answer's picture, its rewritten prompt
    and the tokens charged are the outputs, and a note says the tokens.
    """
    answer = drawn(png(), usage=service.USAGE)
    answer["data"][0]["revised_prompt"] = "a red fox in snow"
    with running(lambda count, asked: Answer(answer)) as found:
        asking(monkeypatch, found)
        notes, outputs = to_end(
            generate("a fox", model="gpt-image-2.5-flare", size="1536x1024", quality="high", take=3)
        )
        import openai

        theirs = openai.OpenAI().images.generate(
            prompt="a fox",
            model="gpt-image-2.5-flare",
            n=1,
            size="1536x1024",
            quality="high",
            output_format="png",
        )
        ours, by_hand = found.asked
    assert (ours.path, ours.fields) == (by_hand.path, by_hand.fields)
    assert ours.headers["authorization"] == f"Bearer {SECRET}"
    assert outputs.revised_prompt == theirs.data[0].revised_prompt == "a red fox in snow"
    assert outputs.usage == service.USAGE
    assert outputs.image.pixels.shape == (6, 8, 3) and outputs.image.pixels[0, 0].tolist() == [
        200,
        30,
        40,
    ]
    assert notes == ["openai charged 12 tokens in and 1,056 tokens out for this picture"]


def test_an_edit_sends_pictures_and_a_mask_whose_inside_is_transparent(monkeypatch):
    """The service gets PNG files of 8 bits; what may change has alpha 0, as its protocol has it."""
    inside = np.zeros((6, 8, 1), np.uint8)
    inside[2:4, 1:5] = 255
    deep = flow.Image(np.full((6, 8, 1), 65535, np.uint16))
    other = flow.Image(np.zeros((3, 3, 4), np.uint8))
    with running(lambda count, asked: Answer(drawn(png((1, 2, 3, 4))))) as found:
        asking(monkeypatch, found)
        _, outputs = to_end(
            edit(
                deep,
                "make it red",
                model="gpt-image-2.5-flare",
                mask=flow.Mask(inside),
                references=[other],
                input_fidelity="high",
                background="transparent",
            )
        )
        (asked,) = found.asked
    assert outputs.image.pixels.shape == (6, 8, 4)
    assert asked.path == "/v1/images/edits"
    assert asked.fields == {
        "prompt": "make it red",
        "model": "gpt-image-2.5-flare",
        "n": "1",
        "output_format": "png",
        "background": "transparent",
        "input_fidelity": "high",
    }
    first, second = (PIL.Image.open(io.BytesIO(file)) for file in asked.files["image[]"])
    (mask,) = (PIL.Image.open(io.BytesIO(file)) for file in asked.files["mask"])
    assert (first.mode, first.getpixel((0, 0)), second.mode) == ("RGB", (255, 255, 255), "RGBA")
    assert np.array_equal(np.asarray(mask)[:, :, 3], 255 - inside[:, :, 0])


def test_what_is_in_the_store_is_not_bought_again(monkeypatch, tmp_path):
    """An equal graph asks nothing; another take asks for another picture."""
    with running(lambda count, asked: Answer(drawn(png((count, 0, 0)), usage=service.USAGE))) as s:
        asking(monkeypatch, s)
        (tmp_path / "g.yaml").write_text(GRAPH, "utf-8")
        settings = {"store": tmp_path / "store", "out": tmp_path / "out"}
        runs = [flow.run(tmp_path / "g.yaml", take=take, **settings) for take in (0, 0, 1)]
        assert len(s.asked) == 2
    assert [run["picture"].pixels[0, 0, 0] for run in runs] == [0, 0, 1]


def test_another_service_is_asked_for_its_own_picture(monkeypatch, tmp_path):
    """The address decides what a model's name means, so it is part of the key; a grey picture of 16
    bits comes as RGB of 8.
    """
    out = io.BytesIO()
    PIL.Image.fromarray(np.full((2, 2), 65535, np.uint16)).save(out, "PNG")
    (tmp_path / "g.yaml").write_text(GRAPH, "utf-8")
    found = []
    for content in (png((9, 9, 9)), out.getvalue()):
        with running(lambda count, asked, content=content: Answer(drawn(content))) as s:
            asking(monkeypatch, s)
            found.append(flow.run(tmp_path / "g.yaml", store=tmp_path / "store")["picture"])
    assert [picture.pixels[0, 0].tolist() for picture in found] == [[9, 9, 9], [255, 255, 255]]


def test_no_file_message_or_log_holds_the_key(monkeypatch, tmp_path, caplog, capfd):
    """Neither the store, the outputs with their provenance, nor what a service that repeats the key
    makes the run say.
    """
    caplog.set_level("DEBUG")
    repeated = {"error": {"message": f"no such key: {SECRET}", "code": "invalid_api_key"}}
    answers = [Answer(drawn(png(), usage={**service.USAGE, SECRET: SECRET})), Answer(repeated, 401)]
    with running(lambda count, asked: answers[count]) as found:
        asking(monkeypatch, found)
        (tmp_path / "g.yaml").write_text(GRAPH, "utf-8")
        settings = {"store": tmp_path / "store", "out": tmp_path / "out"}
        flow.run(tmp_path / "g.yaml", **settings)
        with pytest.raises(NodeError, match="no such key: …") as caught:
            flow.run(tmp_path / "g.yaml", take=1, **settings)
    import traceback

    told = (
        "".join(traceback.format_exception(caught.value))
        + caplog.text
        + "".join(capfd.readouterr())
    )
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert SECRET not in told
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_what_a_picture_cost_is_in_its_provenance(monkeypatch, tmp_path):
    """The note with the tokens is in the document that the picture carries."""
    with running(lambda count, asked: Answer(drawn(png(), usage=service.USAGE))) as found:
        asking(monkeypatch, found)
        (tmp_path / "g.yaml").write_text(GRAPH, "utf-8")
        flow.run(tmp_path / "g.yaml", store=tmp_path / "store", out=tmp_path / "out")
    assert (
        b"openai charged 12 tokens in and 1,056 tokens out"
        in (tmp_path / "out" / "fox-0.png").read_bytes()
    )


def test_a_plan_says_which_services_it_would_call(monkeypatch, tmp_path):
    """Before anything is sent, with the number of steps; no longer once the store has the answer."""
    (tmp_path / "g.yaml").write_text(GRAPH, "utf-8")
    with running(lambda count, asked: Answer(drawn(png()))) as found:
        asking(monkeypatch, found)
        before = flow.plan(tmp_path / "g.yaml", store=tmp_path / "store")
        assert (before.calls, found.asked) == ({"openai": 1}, [])
        flow.run(tmp_path / "g.yaml", store=tmp_path / "store")
        after = flow.plan(tmp_path / "g.yaml", store=tmp_path / "store")
    assert after.calls == {}


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_busy_service_is_asked_again(monkeypatch, status):
    """Under the same idempotency key, so that one that knows it charges once."""

    def answer(count, asked):
        busy = {"error": {"message": "slow down"}}
        return Answer(busy, status, {"retry-after-ms": "1"}) if count < 2 else Answer(drawn(png()))

    with running(answer) as found:
        asking(monkeypatch, found)
        to_end(generate("a fox", model="gpt-image-2.5-flare"))
        keys = {asked.headers["idempotency-key"] for asked in found.asked}
    assert (len(found.asked), len(keys)) == (3, 1)


@pytest.mark.parametrize(
    ("answer", "why", "times"),
    [
        (
            Answer({"error": {"message": "slow down"}}, 429),
            "openai: slow down (status 429); it was asked 5 times",
            5,
        ),
        (
            Answer({"error": {"message": "slow down"}}, 429, {"Retry-After": "86400"}),
            "openai: slow down (status 429); it asks to try again in 86,400 s",
            1,
        ),
        (
            Answer({"error": {"message": "no credit", "code": "insufficient_quota"}}, 429),
            "openai: no credit (status 429)",
            1,
        ),
        (
            Answer({"error": {"message": "not shown", "code": "moderation_blocked"}}, 400),
            "openai: not shown (status 400)",
            1,
        ),
        (
            Answer(b"<html>bad gateway", 502),
            "openai: it answered with status 502; it was asked 5",
            5,
        ),
        (
            Answer(b"", 302, {"Location": "http://127.0.0.1:1/"}),
            "openai: it answered with status 302",
            1,
        ),
        (
            Answer(b"<html>hello", 200, {"Content-Type": "text/html"}),
            "openai: its answer holds no picture; check",
            1,
        ),
        (Answer({"data": "none"}), "openai: its answer holds no picture; check", 1),
        (
            Answer({"data": [{"url": "http://127.0.0.1:1/x.png"}]}),
            "openai: it answered with a link",
            1,
        ),
        (
            Answer({"data": [{"b64_json": "%%%"}]}),
            "openai: its answer holds no picture that can be read",
            1,
        ),
        (Answer(b"[" * 100_000), "openai: its answer is no JSON that can be read", 1),
        (Answer(b""), "openai: its answer is no JSON that can be read", 1),
        (Answer(drawn(b"GIF89a")), "openai: its answer holds no picture that can be read", 1),
        (Answer(drawn(png()[:40])), "openai: its answer holds no picture that can be read", 1),
    ],
    ids="busy day quota refused gateway redirect page list link base64 deep empty gif cut".split(),
)
def test_whatever_a_service_answers_is_told(monkeypatch, answer, why, times):
    """A refusal is told in its words; what may pass is asked for again, the rest is not."""
    said, asked = drawing(monkeypatch, answer)
    assert said.startswith(why)
    assert asked == times


@pytest.mark.parametrize(
    ("usage", "kept"),
    [
        ({"input_tokens": "many", "output_tokens": True, "total_tokens": 5}, {"total_tokens": 5}),
        (json.loads('{"a":' * 800 + "1" + "}" * 800), {}),
        ({f"of {SECRET}": 1}, {"of …": 1}),
    ],
    ids=["types", "deep", "key"],
)
def test_odd_counts_do_not_cost_the_picture(monkeypatch, capfd, usage, kept):
    """It is drawn and charged; what else the service says is left out, and the key never kept."""
    answer = drawn(png(), usage=usage)
    answer["data"][0]["revised_prompt"] = f"a fox with {SECRET}"
    with running(lambda count, asked: Answer(answer)) as found:
        asking(monkeypatch, found)
        _, outputs = to_end(generate("a fox", model="gpt-image-2.5-flare"))
    assert (outputs.revised_prompt, outputs.usage) == ("a fox with …", kept)
    assert capfd.readouterr().err == ""


def test_an_endless_answer_is_not_read_to_its_end(monkeypatch):
    """Its bytes are counted, whether it is a picture or an error."""
    monkeypatch.setattr(client, "MOST_BYTES", 10_000)
    for status in (200, 400):
        endless = Answer(itertools.repeat(b" " * 4096), status)
        said, _ = drawing(monkeypatch, endless)
        assert "the answer is longer than 10,000 bytes" in said


def test_a_picture_too_large_is_not_decoded(monkeypatch):
    """Its size is read from its header."""
    monkeypatch.setattr(client, "MOST_PIXELS", 47)
    said, _ = drawing(monkeypatch, Answer(drawn(png())))
    assert said == "openai: its picture of 8 × 6 pixels is too large"


def test_a_service_that_is_not_there_is_told(monkeypatch):
    """The address may be wrong, so why there is no connection is in the message."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert refusal(generate("a fox", model="m")).startswith("openai: no connection (")


@pytest.mark.parametrize("key", ["", "   ", "sk-\nx", "schlüssel"])
def test_without_a_key_nothing_is_sent(monkeypatch, key):
    """The message names the variable to set."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with running(lambda count, asked: Answer(drawn(png()))) as found:
        asking(monkeypatch, found)
        said = refusal(generate("a fox", model="m"))
        assert found.asked == []
    assert said.startswith("OPENAI_API_KEY ")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: generate("  ", model="m"), "the prompt is empty"),
        (lambda: generate("a", model="m", size="large"), "the size 'large' is not"),
        (
            lambda: edit(
                flow.Image(np.zeros((4, 4, 3), np.uint8)),
                "a",
                model="m",
                mask=flow.Mask(np.zeros((2, 4, 1), np.uint8)),
            ),
            "the mask is 4 × 2 pixels, but the picture is 4 × 4",
        ),
        (
            lambda: edit(
                flow.Image(np.zeros((4, 4, 3), np.uint8)),
                "a",
                model="m",
                references=[flow.Image(np.zeros((1, 1, 3), np.uint8))] * 16,
            ),
            "16 references were given, but at most 15",
        ),
    ],
    ids="prompt size mask references".split(),
)
def test_what_the_service_would_refuse_is_not_sent(make, why):
    """It is told before a request is made."""
    assert refusal(make()).startswith(why)


def test_a_request_that_waits_can_be_cancelled(monkeypatch):
    """The node yields while the service thinks; closing it ends the request."""
    thinking, ended = threading.Event(), threading.Event()

    def answer(count, asked):
        def pieces():
            thinking.set()
            ended.wait(30)
            yield b"{}"

        return Answer(pieces())

    with running(answer) as found:
        asking(monkeypatch, found)
        steps = generate("a fox", model="m")
        next(steps)
        assert thinking.wait(30)
        next(steps)
        began = time.monotonic()
        steps.close()
        assert time.monotonic() - began < 5
        ended.set()


def test_a_service_that_never_answers_is_given_up(monkeypatch):
    """After the time that one request may take."""
    ended = threading.Event()
    with pytest.raises(services.ServiceError, match=r"toy did not answer within 0\.01 s"):
        to_end(services.ask("toy", lambda: ended.wait(30), stop=ended.set, within_s=0.01))
    assert ended.wait(30)


def test_other_models_are_asked_for_a_picture_and_no_link(monkeypatch):
    """Services that speak the protocol of old send a link unless they are told."""
    with running(lambda count, asked: Answer(drawn(png()))) as found:
        asking(monkeypatch, found)
        to_end(generate("a fox", model="dall-e-3"))
    assert found.asked[0].fields == {
        "prompt": "a fox",
        "model": "dall-e-3",
        "n": 1,
        "response_format": "b64_json",
    }


def test_the_graph_that_ships_draws_edits_and_describes(monkeypatch, tmp_path):
    """It sends a picture to be drawn, the drawn one to be edited, and describes that."""
    pictures = [png((255, 0, 0), (128, 128)), png((0, 0, 0), (128, 128))]
    with running(lambda count, asked: Answer(drawn(pictures[count]))) as found:
        asking(monkeypatch, found)
        graph = Path(__file__).parents[2] / "graphs" / "hosted.yaml"
        outputs = flow.run(graph, store=tmp_path / "store", out=tmp_path / "out")
        sent = PIL.Image.open(io.BytesIO(found.asked[1].files["image"][0]))
    assert [asked.path for asked in found.asked] == ["/v1/images/generations", "/v1/images/edits"]
    assert sent.getpixel((5, 5)) == (255, 0, 0)
    assert (outputs["picture"].width, type(outputs["caption"])) == (128, str)
    assert (tmp_path / "out" / "hosted" / "0.png").is_file()
