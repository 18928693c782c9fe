"""A corpus that is generated, not shipped: seeded templated prose about a harbour, so that models can agree.

A document has a topic, which its first sentence names and which decides the likely words of all the others.
Sentences follow each other as a Markov chain of templates. So most words can be guessed by a small model,
some only by one that remembers the topic, and some by nobody: a draft's acceptance is real, neither 0 nor 1.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

END = "<end>"
START = "<start>"
TOPICS = ("grain", "timber", "salt", "copper")

# Slot -> its words, the likelier first for topic 0; each topic turns the list by one.
SLOTS: dict[str, tuple[str, ...]] = {
    "ship": ("heron", "osprey", "plover", "curlew", "gannet", "petrel"),
    "person": ("mira", "tobias", "ansel", "greta", "odo", "runa"),
    "place": ("north quay", "old dock", "tide gate", "rope yard", "west pier"),
    "weather": ("calm", "foggy", "windy", "bright", "wet"),
    "amount": ("twelve", "thirty", "forty", "seven", "ninety"),
    "unit": ("crates", "barrels", "bundles", "sacks"),
    "hour": ("dawn", "noon", "dusk", "midnight"),
    "state": ("sealed", "weighed", "counted", "covered", "marked"),
}
TEMPLATES: tuple[str, ...] = (
    "the {ship} came in at {hour} with {amount} {unit} of {topic} .",
    "{person} wrote in the book that the {unit} were {state} .",
    "the weather was {weather} and the water at the {place} was low .",
    "so the {unit} of {topic} were brought to the {place} before {hour} .",
    "{person} asked for {amount} {unit} more , but the {ship} had no room .",
    "the clerk of the {place} said that every one of them had to be {state} .",
    "at {hour} the {ship} left the {place} again .",
    "nobody at the {place} had seen so much {topic} in one day .",
)
OPENING = "a page from the book of {topic} :"
CHANCES = (0.72, 0.16, 0.07, 0.03, 0.01, 0.01)
"""How likely the first, second, ... choice is; rescaled where there are fewer."""


def vocabulary() -> list[str]:
    """All words in a fixed order; a token is its place. The first two are END and START."""
    words = {word for choices in SLOTS.values() for choice in choices for word in choice.split()}
    for template in (*TEMPLATES, OPENING):
        words |= {word for word in template.split() if not word.startswith("{")}
    return [END, START, *sorted(words | set(TOPICS))]


def documents(seed: int) -> Iterator[list[int]]:
    """Documents without end, as tokens: START, an opening, 4 to 12 sentences, END."""
    dice = random.Random(seed)
    token = {word: place for place, word in enumerate(vocabulary())}
    while True:
        topic = dice.randrange(len(TOPICS))
        words = [START, *_filled(OPENING, topic, dice)]
        template = topic % len(TEMPLATES)
        for _ in range(dice.randint(4, 12)):
            words += _filled(TEMPLATES[template], topic, dice)
            # Mostly the next template, at times another one.
            template = (template + 1 + _choice(len(CHANCES), dice)) % len(TEMPLATES)
        yield [token[word] for word in (*words, END)]


def prompts(count: int, seed: int, *, least: int = 8, most: int = 40) -> list[list[int]]:
    """`count` beginnings of documents, of `least` to `most` tokens: ragged on purpose."""
    dice = random.Random(seed + 1)
    return [
        document[: dice.randint(least, most)]
        for document, _ in zip(documents(seed), range(count), strict=False)
    ]


def text(tokens: list[int]) -> str:
    """Tokens as words."""
    words = vocabulary()
    return " ".join(words[token] if token < len(words) else f"<{token}>" for token in tokens)


def _filled(template: str, topic: int, dice: random.Random) -> Iterator[str]:
    """The words of a template, its slots filled as the topic likes."""
    for word in template.split():
        if word == "{topic}":
            yield TOPICS[topic]
        elif word.startswith("{"):
            choices = SLOTS[word.strip("{}")]
            yield from choices[(topic + _choice(len(choices), dice)) % len(choices)].split()
        else:
            yield word


def _choice(count: int, dice: random.Random) -> int:
    """0 most of the time, then 1, ...: by CHANCES."""
    places = range(min(count, len(CHANCES)))
    return dice.choices(places, CHANCES[: len(places)])[0]
