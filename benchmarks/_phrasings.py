"""Prompts as people type them, written by hand and seen by no training, each with the facts that it
asks for as a canonical caption. What a prompt leaves open is not in its caption and not judged.
"""

from __future__ import annotations

from imagen_flow_embedded.world import read_caption

_BY_HAND = """
red circle = red circle
a big red circle = large red circle
small blue square on white = small blue square on white
One tiny green star on a black background. = small green star on black
a yellow triangle, large, on grey = large yellow triangle on gray
large purple diamond (gray background) = large purple diamond on gray
a violet star on brown = purple star on brown
Please give me a big orange cross on a white background! = large orange cross on white
huge cyan disc, black background = large cyan circle on black
a little pink rhombus against white = small pink diamond on white
a single giant yellow star, nothing else, on a brown background = large yellow star on brown
Black background. Big blue circle. = large blue circle on black
I'd like to see a small purple cross on gray = small purple cross on gray
a photo of a large green triangle on a brown background = large green triangle on brown
just a small red dot on white = small red circle on white
a red circle and a blue square = red circle and blue square
red circle, blue square = red circle and blue square
big red circle with a small blue square on a white background = large red circle and small blue square on white
a green star next to a pink diamond on black = green star and pink diamond on black
a red circle to the left of a blue square = red circle left of blue square
small yellow star on the right of a large purple circle, black background = small yellow star right of large purple circle on black
A large cyan square above a small orange triangle on a grey background = large cyan square above small orange triangle on gray
a tiny pink cross underneath a huge green circle on white = small pink cross below large green circle on white
a big blue diamond over a little red star, brown background = large blue diamond above small red star on brown
there's a small orange square under a large yellow circle on a black background = small orange square below large yellow circle on black
left: a big red star, right: a small green circle, on white = large red star left of small green circle on white
a big red star on the left and a small green circle on the right, white background = large red star left of small green circle on white
on the right a small blue cross, on the left a large pink square, gray background = small blue cross right of large pink square on gray
top: large purple triangle. bottom: small cyan circle. brown background = large purple triangle above small cyan circle on brown
a small cyan circle at the bottom and a large purple triangle at the top on black = small cyan circle below large purple triangle on black
on a white background, a large orange diamond left of a small blue star = large orange diamond left of small blue star on white
to the right of a small red square is a large green cross, on gray = large green cross right of small red square on gray
below a large yellow star there is a tiny purple circle, black background = small purple circle below large yellow star on black
a circle that is large and red on a black background = large red circle on black
a square, small and cyan, left of a star, large and pink, on brown = small cyan square left of large pink star on brown
the background is gray and there is a large orange circle = large orange circle on gray
a large red triangle with a small yellow circle on its left, white background = large red triangle right of small yellow circle on white
a huge blue square with a tiny orange star below it on gray = large blue square above small orange star on gray
small green diamond beneath big red cross, background white = small green diamond below large red cross on white
big green cross on top of a small pink circle on a brown background = large green cross above small pink circle on brown
large red circle left of large blue circle on white = large red circle left of large blue circle on white
a small blue star and a large blue star on black = small blue star and large blue star on black
two circles: a big red one on the left, a small yellow one on the right, gray background = large red circle left of small yellow circle on gray
a small white-background picture with a purple star = purple star on white
a large turquoise triangle right of a small crimson square, black backdrop = large cyan triangle right of small red square on black
A LARGE RED CIRCLE ON A BLACK BACKGROUND = large red circle on black
large blue box over a small violet plus sign, white = large blue square above small purple cross on white
picture of a big golden star beside a small pink disc, brown background = large yellow star and small pink circle on brown
a small green triangle sitting to the left of a big orange square on a white background = small green triangle left of large orange square on white
draw me a large pink circle, and to its right a small blue triangle, on black = large pink circle left of small blue triangle on black
no star, just a big red square on white = large red square on white
a large yellow cross without any circle on gray = large yellow cross on gray
big cyan star, small red diamond under it, black background = large cyan star above small red diamond on black
a beautiful large purple circle on a very dark black background = large purple circle on black
a large red rectangle on white = count 1 on white
an orange circle left of a rectangle on black = orange circle on black, count 2
some small pink square, somewhere on a brown background = small pink square on brown
on brown: tiny cyan cross above huge yellow triangle = small cyan cross above large yellow triangle on brown
a large green circle is on the left side, a small purple square is on the right side, on a gray background = large green circle left of small purple square on gray
could you draw a large blue star that is above a small orange diamond on white please = large blue star above small orange diamond on white
"""


def _facts(caption: str) -> dict[str, str]:
    if caption == "count 1 on white":
        return {"count": "1", "background": "white"}
    if caption.endswith(", count 2"):
        return read_caption(caption.removesuffix(", count 2")) | {"count": "2"}
    return read_caption(caption)


PHRASINGS = tuple(
    (prompt, _facts(caption))
    for prompt, caption in (line.split(" = ") for line in _BY_HAND.strip().splitlines())
)
"""Each prompt with the facts that it asks for, in the keys of `world.attributes`."""
