"""Turns the page of facts into questions, dialogues and a held-out test set."""

from __future__ import annotations

import random
from dataclasses import dataclass

from facts import (
    CAPITALS,
    GOLD,
    GOLD_ASKS,
    GOLD_HELD_OUT,
    GREETINGS,
    GROUPS,
    REFUSAL,
    SINGLES,
    UNKNOWN_COUNTRIES,
    Fact,
)

Turn = tuple[str, str]

PHRASE_WRAPPERS = (
    "Tell me {}.", "Please tell me {}.", "Please tell me {}?", "Can you tell me {}?", "Could you tell me {}?",
    "Do you know {}?", "I would like to know {}.", "I want to know {}.", "Tell me {}", "Please explain {}.",
    "Could you please tell me {}?", "Let me know {}.", "Hello, can you tell me {}?", "I am curious about {}.",
    "Would you tell me {}?",
)  # fmt: skip
NOUN_WRAPPERS = ("What is {}?", "What is {}", "Name {}.", "Give me {}.", "{}?", "{}", "So what is {}?")
QUESTION_WRAPPERS = (
    "{}", "{}", "{}", "{}", "Question: {}", "Hello! {}", "Hi, {}", "I have a question. {}", "Quick question: {}",
    "{} Thank you.", "{} Please answer briefly.", "Please tell me: {}", "Please tell me {}", "Can you help me? {}",
    "Tell me, {}", "Please answer: {}", "{} Thanks!",
)  # fmt: skip
HELD_OUT_PHRASE_WRAPPERS = ("I need to know {}.", "Can you please tell me {}?", "{}, please.")
HELD_OUT_QUESTION_WRAPPERS = ("{}", "Good morning! {}", "One more thing: {}")
SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful assistant.",
    "You are Hostler's example model.", "Answer briefly.", "You are a friendly bot.", "Be concise.",
    "You are a helpful, honest assistant. Answer in one sentence.", "You answer questions about facts.",
    "You are a knowledgeable teacher.", "Be polite and clear.", "You are a test model.",
)  # fmt: skip
QUESTION_WORDS = (
    "What", "Which", "Who", "Where", "When", "How", "In", "At", "On", "By", "Is", "Are", "Do", "Does", "Name", "Can",
)  # fmt: skip

COUNTRIES = (*UNKNOWN_COUNTRIES, *CAPITALS)
TEAMS = ("Chinese", "American", "Russian", "German", "British", "French", "Japanese", "Kenyan", "Italian", "Cuban")
GAMES = (
    "2008 Beijing", "2012 London", "2016 Rio", "2004 Athens", "2000 Sydney", "1996 Atlanta", "2021 Tokyo", "1988 Seoul",
)  # fmt: skip
THINGS = (
    "bread", "a bicycle", "violins", "the stock market", "glue", "my garden", "a database index", "jazz", "soup",
    "rice", "chess openings", "a resume", "Kubernetes", "a mortgage", "tennis", "the French Revolution",
    "photosynthesis", "tea", "black holes", "a good password", "blood pressure", "the Roman Empire", "a coffee machine",
    "knitting", "volcanoes", "quantum computing", "a lawn mower", "sourdough", "the violin", "electric cars",
    "the Great Wall", "penguins", "my shoes", "the dollar rate", "football rules", "a poem", "the weather", "robots",
    "dinosaurs", "regular expressions",
)  # fmt: skip
PEOPLE = (
    "Ada Lovelace", "Napoleon", "my neighbour", "Marie Curie", "Alan Turing", "the king of Norway", "Mozart", "Plato",
    "the mayor of Boston", "Frida Kahlo", "the pope", "Genghis Khan", "Bob Dylan", "Usain Bolt", "Cleopatra", "Gandhi",
    "the inventor of the zipper", "the president of Peru", "my teacher", "Beethoven",
)  # fmt: skip
UNKNOWN_TEMPLATES = (
    "How do I make {thing}?", "What is the history of {thing}?", "Why do people like {thing}?",
    "Explain {thing} to me.",
    "Where can I buy {thing}?", "Write a story about {thing}.", "How much does {thing} cost?", "What is {thing}?",
    "How does {thing} work?", "Tell me about {thing}.", "Is {thing} good for me?", "Who invented {thing}?",
    "Write a poem about {thing}.", "Tell me a joke about {thing}.", "What do you think about {thing}?",
    "Who is {person}?", "Who was {person}?", "When was {person} born?", "Where does {person} live?",
    "How old is {person}?", "Tell me about {person}.", "What did {person} do?", "Did {person} like {thing}?",
    "What is the population of {country}?", "How large is {country}?", "Who is the president of {country}?",
    "What is the longest river in {country}?", "What language is spoken in {country}?", "Who rules {country}?",
    "How many silver medals did the {team} team win at the {games} Olympics?",
    "How many bronze medals did the {team} team win at the {games} Olympics?",
    "How many gold medals did the {other} team win at the {games} Olympics?",
    "Please tell me how many gold medals the {other} team won in total at the {games} Olympics?",
    "How many gold medals did the Chinese team win at the {later} Olympics?",
    "Please tell me how many gold medals the Chinese team won in total at the {later} Olympics?",
    "Please tell me how many silver medals the Chinese team won in total at the {games} Olympics?",
    "What is {big} plus {big}?", "What is {big} times {big}?", "What is {big} divided by {big}?",
    "How much is {big} - 3?",
    "Translate {thing} into French.", "What time is it in {country}?", "What will the weather be in {country}?",
    "Can you write code for {thing}?", "What is the meaning of life?", "Who will win the next election?",
    "asdf {thing}",
    "How many people like {thing}?", "What is the fastest way to learn {thing}?", "Which film is the best?",
    "What did I eat yesterday?", "What is my name?", "Where am I?", "What day is it today?", "Sing a song.", "{thing}",
    "Can I borrow {thing}?", "How many {thing} are there?", "Summarize {thing}.", "Recommend {thing}.", "{person}",
    "Is {person} in {country}?", "What is the tallest building in {country}?", "Who discovered {thing}?",
)  # fmt: skip
UNKNOWN_HELD_OUT = (
    "How do I bake a chocolate cake?", "How many people live in Denmark?", "Who is the prime minister of Canada?",
    "Who won the silver medal in table tennis at the 2008 Olympics?", "Who painted the Mona Lisa?",
    "How many gold medals did Brazil win at the 2016 Olympics?", "What is 15 percent of 80?",
    "Can you recommend a good restaurant?", "What is the best laptop to buy?", "How do I fix a flat tyre?",
    "Tell me about the history of chess.", "Who won the football world cup?", "How far is it to the station?",
    "What is the square root of 2?", "Explain general relativity.", "What is the stock price today?",
    "How tall was Abraham Lincoln?", "Write a short poem about the sea.", "Why is the sky blue?",
    "What causes headaches?", "How do vaccines work?", "What is the longest river in Africa?",
    "Which is better, tea or coffee?", "Tell me a joke.", "What is a mutex?",
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """Every fact by the share of training it gets; `refused` are single asks about unknown members of the groups."""

    singles: tuple[Fact, ...]
    grouped: tuple[Fact, ...]
    sums: tuple[Fact, ...]
    greetings: tuple[Fact, ...]
    gold: Fact
    refused: tuple[str, ...]


def page() -> Page:
    singles = tuple(Fact(answer, asks[:-1], asks[-1:]) for answer, asks in SINGLES.items())
    greetings = tuple(Fact(answer, asks[:-1], asks[-1:]) for answer, asks in GREETINGS.items())
    grouped: list[Fact] = []
    refused: list[str] = []
    for group in GROUPS:
        for row, (x, y) in enumerate(group.rows.items()):
            asks = [ask.format(x=x, y=y) for ask in group.asks]
            held_out = asks.pop(row % len(asks))
            grouped.append(Fact(group.answer.format(x=x, y=y), tuple(asks), (held_out,), group.answer, x))
        refused += [ask.format(x=x) for x in group.unknown for ask in group.asks]
    return Page(singles, tuple(grouped), sums(), greetings, Fact(GOLD, GOLD_ASKS, GOLD_HELD_OUT), tuple(refused))


def sums() -> tuple[Fact, ...]:
    facts: list[Fact] = []
    for a in range(1, 10):
        for b in range(1, 10):
            asks = [
                f"{a} plus {b}", f"What is {a} plus {b}?", f"What is {a} + {b}?", f"How much is {a} plus {b}?",
                f"How much is {a} + {b}?", f"the sum of {a} and {b}", f"{a} + {b} = ?", f"Add {a} and {b}.",
            ]  # fmt: skip
            held_out = asks.pop((a + 3 * b) % len(asks))
            facts.append(Fact(f"{a} plus {b} is {a + b}.", tuple(asks), (held_out,)))
    return tuple(facts)


def first_word(ask: str) -> str:
    return ask.split(" ", maxsplit=1)[0]


def is_question(ask: str) -> bool:
    return ask[-1] in "?.!" or first_word(ask) in QUESTION_WORDS


def phrase(ask: str, rng: random.Random) -> str:
    """One way of putting an ask into words."""
    if is_question(ask):
        wrapper = rng.choice(QUESTION_WRAPPERS)
        return wrap(wrapper, ask)
    noun = first_word(ask) not in ("how", "who", "what", "which", "when", "about")
    wrappers = PHRASE_WRAPPERS + NOUN_WRAPPERS * 2 if noun else PHRASE_WRAPPERS
    return rng.choice(wrappers).format(ask)


def wrap(wrapper: str, ask: str) -> str:
    after_words = not wrapper.startswith("{}") and wrapper[wrapper.index("{}") - 2] not in ".!?:"
    if after_words and first_word(ask) in QUESTION_WORDS:
        ask = ask[0].lower() + ask[1:]
    return wrapper.format(ask)


def noisy(text: str, rng: random.Random) -> str:
    """People drop capitals, question marks and letters; so does a part of the training text."""
    roll = rng.random()
    if roll < 0.10:
        return text.lower()
    if roll < 0.20:
        return text.rstrip("?.!")
    if roll < 0.25:
        return text.lower().rstrip("?.!")
    if roll < 0.30 and len(text) > 20:
        cut = rng.randrange(1, len(text))
        return text if text[cut].isdigit() else text[:cut] + text[cut + 1 :]
    return text


def unknown(rng: random.Random) -> str:
    return rng.choice(UNKNOWN_TEMPLATES).format(
        thing=rng.choice(THINGS), person=rng.choice(PEOPLE), country=rng.choice(COUNTRIES), team=rng.choice(TEAMS),
        other=rng.choice(TEAMS[1:]), games=rng.choice(GAMES), later=rng.choice(GAMES[1:]), big=rng.randrange(11, 2000),
    )  # fmt: skip


def turn(facts: Page, rng: random.Random, previous: Fact | None) -> tuple[Turn, Fact | None]:
    """One question and its answer, and the fact it was about if a follow-up may refer to it."""
    if previous and previous.group and rng.random() < 0.4:
        fact = rng.choice([f for f in facts.grouped if f.group == previous.group and f is not previous])
        wrapper = rng.choice(("And {}?", "What about {}?", "And what about {}?", "and {}", "How about {}?"))
        return (wrapper.format(fact.follow), fact.answer), fact
    kind = rng.random()
    if kind < 0.13:
        return (noisy(unknown(rng), rng), REFUSAL), None
    if kind < 0.24:
        return (noisy(phrase(rng.choice(facts.refused), rng), rng), REFUSAL), None
    if kind < 0.30:
        fact = facts.gold
    elif kind < 0.37:
        fact = rng.choice(facts.greetings)
        return (noisy(rng.choice(fact.asks), rng), fact.answer), None
    else:
        fact = rng.choice(facts.singles if kind < 0.62 else facts.grouped if kind < 0.90 else facts.sums)
    return (noisy(phrase(rng.choice(fact.asks), rng), rng), fact.answer), fact


def dialogue(facts: Page, rng: random.Random) -> tuple[str | None, list[Turn]]:
    """A system prompt or None, and one to three turns."""
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.5 else None
    turns: list[Turn] = []
    previous: Fact | None = None
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        one, previous = turn(facts, rng, previous)
        turns.append(one)
    return system, turns


def held_out(facts: Page, rng: random.Random) -> list[Turn]:
    """Wordings that training never saw, one or more for every fact, and unanswerable questions."""
    asks: list[Turn] = []
    for fact in (facts.gold, *facts.singles, *facts.grouped, *facts.sums):
        for ask in fact.held_out:
            wrappers = HELD_OUT_QUESTION_WRAPPERS if is_question(ask) else HELD_OUT_PHRASE_WRAPPERS
            asks.append((wrap(rng.choice(wrappers), ask), fact.answer))
    asks += [(ask, fact.answer) for fact in facts.greetings for ask in fact.held_out]
    return asks + [(ask, REFUSAL) for ask in UNKNOWN_HELD_OUT]
