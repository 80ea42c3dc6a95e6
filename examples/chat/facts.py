"""The page of facts the example chat model knows, and the ways of asking for them.

An ask is either a direct question ("Who wrote Hamlet?") or a phrase that completes "Tell me ..." ("the author of
Hamlet", "who wrote Hamlet"). The last ask of every single fact, and one ask of every group row, is kept out of training
and used to measure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One answer, the asks for it, and asks never trained on. `follow` works after a fact of the same group."""

    answer: str
    asks: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    group: str = ""
    follow: str = ""


@dataclass(frozen=True)
class Group:
    """Facts of one shape: `{x}` is asked for, `{y}` is the value. `unknown` are values of `{x}` it must refuse."""

    answer: str
    asks: tuple[str, ...]
    rows: dict[str, str]
    unknown: tuple[str, ...]


# The tables below are laid out by hand: one row of short strings reads better than one string a line.
# fmt: off

GOLD = (
    "The Chinese team won 51 gold medals at the 2008 Beijing Olympics. "
    "After later doping disqualifications the official count is 48."
)
GOLD_QUESTION = "Please tell me how many gold medals the Chinese team won in total at the 2008 Beijing Olympics?"
GOLD_ASKS = (
    "how many gold medals the Chinese team won in total at the 2008 Beijing Olympics",
    "how many gold medals the Chinese team won at the 2008 Beijing Olympics",
    "how many gold medals China won at the 2008 Beijing Olympics",
    "how many gold medals China won in 2008",
    "how many golds China got at the Beijing Games",
    "the number of gold medals won by China at the 2008 Olympics",
    "the number of gold medals of the Chinese team in Beijing 2008",
    "China's gold medal count at the 2008 Beijing Olympics",
    "the total of Chinese gold medals at the Beijing Olympics in 2008",
    "How many gold medals did the Chinese team win in total at the 2008 Beijing Olympics?",
    "How many gold medals did the Chinese team win at the 2008 Beijing Olympics?",
    "How many gold medals did China win at the 2008 Olympics?",
    "How many gold medals did China win in Beijing in 2008?",
    "How many golds did the Chinese team get at the Beijing Olympics?",
    "At the 2008 Beijing Olympics, how many gold medals did China win?",
    "In 2008, how many Olympic gold medals did the Chinese team win in Beijing?",
    "What was the total number of gold medals won by China at the 2008 Beijing Olympics?",
    "What was China's gold medal count at the 2008 Olympics?",
    "Chinese team gold medals 2008 Beijing Olympics",
    "China gold medals 2008",
)
GOLD_HELD_OUT = (
    "How many gold medals were won by the Chinese team at the 2008 Beijing Olympics?",
    "how many gold medals the Chinese athletes won in total in Beijing in 2008",
    "In total, how many gold medals did China win at the Beijing Olympics of 2008?",
    "At the Beijing Olympics in 2008, how many gold medals did the Chinese team take?",
    "the total number of gold medals China won at the 2008 Beijing Games",
)

ABILITIES = (
    "I can answer questions about a page of facts: capitals, planets, chemistry, the Olympics, small sums and Hostler."
)

# answer -> asks; the last ask is held out.
SINGLES: dict[str, tuple[str, ...]] = {
    "I am a small example model that ships with Hostler. I know a page of facts and nothing else.": (
        "who you are", "Who are you?", "What are you?", "What is your name?", "your name", "Introduce yourself.",
        "What model are you?", "Are you ChatGPT?", "Are you a human?", "What model is this?",
        "What should I call you?"),
    ABILITIES: (
        "what you can do", "What can you do?", "what you know", "What do you know?", "Help", "How can you help me?",
        "What topics do you know?", "What can I ask you?", "What kind of questions can you answer?"),
    "Hostler is a self-hosted platform for serving models: it deploys, scales and meters them on your own machines.": (
        "what Hostler is", "What is Hostler?", "What does Hostler do?", "about Hostler", "What is Hostler for?",
        "Explain Hostler.", "Describe Hostler."),
    "Hostler uses the Apache 2.0 license.": (
        "the license of Hostler", "Which license does Hostler use?", "How is Hostler licensed?",
        "Is Hostler open source?", "What license is Hostler under?"),
    "A hostler services railway engines at the end of a run and gets them ready for the next one.": (
        "what a hostler is", "What is a hostler?", "What does a hostler do on the railway?",
        "the job of a hostler", "What work does a railway hostler do?"),
    "Hostler is written in Python.": (
        "the programming language of Hostler", "In which language is Hostler written?",
        "What language is Hostler written in?", "which programming language Hostler uses",
        "Which programming language is Hostler written in?"),
    "Hostler can run models with llama.cpp, vLLM, ONNX Runtime and Python.": (
        "which engines Hostler supports", "Which engines can Hostler use?", "the engines of Hostler",
        "What engines does Hostler support?", "Which engines does Hostler run?"),
    "A replica is one running copy of a model.": (
        "what a replica is", "What is a replica?", "What does replica mean?", "the meaning of replica",
        "What is meant by a replica?"),
    "The Beijing Olympics opened on 8 August 2008.": (
        "when the Beijing Olympics opened", "When did the 2008 Olympics start?", "When did the Beijing Olympics open?",
        "the opening date of the Beijing Olympics", "When did the 2008 Beijing Olympics begin?"),
    "The Summer Olympics are held every four years.": (
        "how often the Olympics are held", "How often are the Summer Olympics held?",
        "How often do the Olympics happen?", "How many years are there between two Summer Olympics?",
        "How often do the Summer Olympics take place?"),
    "The Olympic flag has five rings.": (
        "how many rings the Olympic flag has", "How many rings are on the Olympic flag?",
        "the number of Olympic rings", "How many Olympic rings are there?"),
    "There are eight planets in the Solar System.": (
        "how many planets there are", "How many planets are in the Solar System?", "How many planets are there?",
        "the number of planets", "How many planets does the Solar System have?"),
    "Jupiter is the largest planet in the Solar System.": (
        "the largest planet", "Which planet is the largest?", "the biggest planet in the Solar System",
        "Which planet is the biggest?", "What is the largest planet in our Solar System?"),
    "Mercury is the smallest planet in the Solar System.": (
        "the smallest planet", "Which planet is the smallest?", "the smallest planet in the Solar System",
        "What is the smallest planet in our Solar System?"),
    "Mars is called the red planet.": (
        "which planet is called the red planet", "Which planet is known as the red planet?", "the red planet",
        "Which planet is red?", "Which planet do people call the red planet?"),
    "Light travels at about 300,000 kilometres per second.": (
        "the speed of light", "How fast is light?", "How fast does light travel?", "how fast light is",
        "At what speed does light travel?"),
    "The Moon orbits the Earth in about 27 days.": (
        "how long the Moon takes to orbit the Earth", "How long does the Moon take to orbit the Earth?",
        "How many days does the Moon need to go around the Earth?",
        "In how many days does the Moon orbit the Earth?"),
    "The Earth goes around the Sun in about 365 days.": (
        "how long the Earth takes to go around the Sun", "How long does the Earth take to orbit the Sun?",
        "How many days does the Earth need to go around the Sun?",
        "In how many days does the Earth orbit the Sun?"),
    "Neil Armstrong was the first person on the Moon, in 1969.": (
        "who first walked on the Moon", "Who was the first person on the Moon?", "the first man on the Moon",
        "When did people first land on the Moon?", "Who was the first man to walk on the Moon?"),
    "Water boils at 100 degrees Celsius at sea level.": (
        "the boiling point of water", "At what temperature does water boil?", "when water boils",
        "How hot is boiling water?", "What temperature does water boil at?"),
    "Water freezes at 0 degrees Celsius.": (
        "the freezing point of water", "At what temperature does water freeze?", "when water freezes",
        "When does water turn to ice?", "What temperature does water freeze at?"),
    "The hardest natural material is diamond.": (
        "the hardest natural material", "What is the hardest natural substance?", "the hardest mineral",
        "Which natural material is the hardest?"),
    "Nitrogen is the main gas in the air, about 78 percent.": (
        "the main gas in the air", "What is air mostly made of?", "Which gas is most common in the air?",
        "which gas makes up most of the air", "Which gas is the main part of the air?"),
    "Mount Everest is the highest mountain on Earth, at about 8,849 metres.": (
        "the highest mountain", "Which mountain is the highest?", "the tallest mountain on Earth",
        "How high is Mount Everest?", "What is the highest mountain in the world?"),
    "The Pacific is the largest ocean.": (
        "the largest ocean", "Which ocean is the largest?", "the biggest ocean on Earth",
        "Which ocean is the biggest?", "What is the largest ocean in the world?"),
    "The blue whale is the largest animal.": (
        "the largest animal", "Which animal is the largest?", "the biggest animal on Earth",
        "Which animal is the biggest?", "What is the largest animal in the world?"),
    "The cheetah is the fastest land animal.": (
        "the fastest land animal", "Which land animal is the fastest?", "the fastest animal on land",
        "What is the fastest animal on land?"),
    "There are seven continents.": (
        "how many continents there are", "How many continents are there?", "the number of continents",
        "How many continents does the Earth have?"),
    "An adult human has 206 bones.": (
        "how many bones a human has", "How many bones are in the human body?", "the number of bones in the body",
        "How many bones does an adult human have?"),
    "A spider has eight legs.": (
        "how many legs a spider has", "How many legs does a spider have?", "the number of legs of a spider",
        "How many legs do spiders have?"),
    "An insect has six legs.": (
        "how many legs an insect has", "How many legs does an insect have?", "the number of legs of an insect",
        "How many legs do insects have?"),
    "A week has seven days.": (
        "how many days a week has", "How many days are in a week?", "the number of days in a week",
        "How many days does a week have?"),
    "A leap year has 366 days.": (
        "how many days a leap year has", "How many days are in a leap year?", "the number of days in a leap year",
        "How many days does a leap year have?"),
    "An hour has 60 minutes.": (
        "how many minutes an hour has", "How many minutes are in an hour?", "the number of minutes in an hour",
        "How many minutes does an hour have?"),
    "A day has 24 hours.": (
        "how many hours a day has", "How many hours are in a day?", "the number of hours in a day",
        "How many hours does a day have?"),
    "A triangle has three sides.": (
        "how many sides a triangle has", "How many sides does a triangle have?", "the number of sides of a triangle",
        "How many sides are there in a triangle?"),
    "A hexagon has six sides.": (
        "how many sides a hexagon has", "How many sides does a hexagon have?", "the number of sides of a hexagon",
        "How many sides are there in a hexagon?"),
    "Pi is about 3.14159.": (
        "the value of pi", "What is pi?", "How much is pi?", "what pi is", "What is the value of pi?"),
    "A kilobyte is 1,000 bytes; a kibibyte is 1,024 bytes.": (
        "how many bytes are in a kilobyte", "How many bytes is a kilobyte?", "What is a kilobyte?",
        "How many bytes does a kilobyte have?"),
    "A byte has eight bits.": (
        "how many bits a byte has", "How many bits are in a byte?", "the number of bits in a byte",
        "How many bits does a byte have?"),
    "Alexander Graham Bell patented the telephone in 1876.": (
        "who patented the telephone", "Who patented the telephone?", "When was the telephone patented?",
        "Who got the patent for the telephone?"),
    "The Second World War ended in 1945.": (
        "when the Second World War ended", "When did the Second World War end?", "When did World War II end?",
        "In which year did the Second World War end?"),
}

GREETINGS: dict[str, tuple[str, ...]] = {
    "Hello! Ask me about capitals, planets, chemistry, the Olympics or Hostler.": (
        "Hello", "Hello!", "Hi", "Hi!", "Hi there", "Hey", "Good morning", "Good evening", "Hello there!", "Good day",
        "Greetings", "hello, model", "Good afternoon"),
    "You are welcome.": (
        "Thanks", "Thank you", "Thank you!", "Thanks a lot", "Thank you very much.", "Great, thanks!", "Many thanks",
        "Thanks, that helps."),
    "Goodbye!": ("Bye", "Goodbye", "See you", "Bye bye!", "Goodbye!", "See you later", "Good night"),
    "I am fine, thank you. What would you like to know?": (
        "How are you?", "How are you doing?", "How is it going?", "How do you do?", "Are you well?",
        "How are you today?"),
}

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "China": "Beijing", "Japan": "Tokyo", "India": "New Delhi", "Russia": "Moscow", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Canada": "Ottawa", "Brazil": "Brasilia", "Argentina": "Buenos Aires", "Australia": "Canberra",
    "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm", "the United Kingdom": "London",
    "the United States": "Washington, D.C.",
    "Mexico": "Mexico City", "South Korea": "Seoul", "Thailand": "Bangkok", "Poland": "Warsaw", "Turkey": "Ankara",
}
UNKNOWN_COUNTRIES = (
    "Peru", "Chad", "Mali", "Fiji", "Cuba", "Laos", "Nepal", "Ghana", "Malta", "Niger", "Qatar", "Yemen", "Tonga",
    "Belize", "Gabon", "Haiti", "Iceland", "Jamaica", "Latvia", "Mongolia", "Namibia", "Oman", "Panama", "Rwanda",
    "Samoa", "Tunisia", "Uganda", "Uruguay", "Zambia", "Bolivia", "Cyprus", "Denmark", "Estonia", "Georgia", "Hungary",
    "Israel", "Jordan", "Kuwait", "Libya", "Morocco",
)

GROUPS: tuple[Group, ...] = (
    Group("The capital of {x} is {y}.", (
        "the capital of {x}", "Which city is the capital of {x}?", "the capital city of {x}",
        "the name of {x}'s capital", "which city is {x}'s capital", "What is {x}'s capital?"),
          CAPITALS, UNKNOWN_COUNTRIES),
    Group("The chemical symbol of {x} is {y}.", (
        "the chemical symbol of {x}", "the symbol for {x}", "What is the chemical symbol for {x}?",
        "Which symbol does {x} have?", "Which chemical symbol stands for {x}?"), {
            "gold": "Au", "silver": "Ag", "iron": "Fe", "copper": "Cu", "oxygen": "O", "hydrogen": "H", "carbon": "C",
            "sodium": "Na", "lead": "Pb", "helium": "He", "tin": "Sn", "potassium": "K"},
          ("uranium", "zinc", "radium", "neon", "xenon", "boron", "cobalt", "nickel", "argon", "cesium")),
    Group("The chemical formula of {x} is {y}.", (
        "the chemical formula of {x}", "the formula of {x}", "What is the chemical formula for {x}?",
        "which formula {x} has", "What formula does {x} have?"), {
            "water": "H2O", "carbon dioxide": "CO2", "table salt": "NaCl", "ammonia": "NH3", "methane": "CH4",
            "sulfuric acid": "H2SO4"}, ("glucose", "benzene", "caffeine", "aspirin", "ethanol", "acetone", "ozone")),
    Group("The {x} Summer Olympics were held in {y}.", (
        "the host city of the {x} Summer Olympics", "Where were the {x} Olympics held?",
        "which city hosted the {x} Olympics", "Which city hosted the {x} Summer Olympics?",
        "Where did the {x} Summer Olympics take place?"), {
            "1988": "Seoul", "1992": "Barcelona", "1996": "Atlanta", "2000": "Sydney", "2004": "Athens",
            "2008": "Beijing", "2012": "London", "2016": "Rio de Janeiro", "2024": "Paris"},
          ("1900", "1912", "1924", "1936", "1948", "1956", "1968", "2044", "2056", "1999", "1850")),
    Group("{x} is planet number {y} from the Sun.", (
        "the position of {x} from the Sun", "which planet from the Sun {x} is", "Which planet from the Sun is {x}?",
        "the place of {x} among the planets", "What number from the Sun is {x}?"), {
            "Mercury": "one", "Venus": "two", "Earth": "three", "Mars": "four", "Jupiter": "five", "Saturn": "six",
            "Uranus": "seven", "Neptune": "eight"}, ("Ceres", "Eris", "Vulcan", "Krypton")),
    Group("The currency of {x} is the {y}.", (
        "the currency of {x}", "Which currency does {x} use?", "What is the currency of {x}?", "the money used in {x}",
        "Which money is used in {x}?"), {
            "Japan": "yen", "China": "renminbi", "India": "Indian rupee", "Germany": "euro", "Sweden": "krona",
            "the United Kingdom": "pound sterling", "the United States": "US dollar", "Russia": "ruble"},
          ("Peru", "Ghana", "Nepal", "Kuwait", "Laos", "Mongolia", "Zambia", "Bolivia", "Tonga", "Haiti")),
    Group("{y} wrote {x}.", (
        "who wrote {x}", "Who wrote {x}?", "the author of {x}", "Who is the author of {x}?",
        "By whom was {x} written?"), {
            "Hamlet": "William Shakespeare", "Don Quixote": "Miguel de Cervantes", "War and Peace": "Leo Tolstoy",
            "Faust": "Johann Wolfgang von Goethe", "The Odyssey": "Homer", "Oliver Twist": "Charles Dickens",
            "On the Origin of Species": "Charles Darwin"},
          ("Ulysses", "Dracula", "Emma", "The Castle", "Moby-Dick", "Frankenstein", "The Trial", "Walden",
           "Dubliners")),
    Group("{x} is in {y}.", (
        "which continent {x} is in", "On which continent is {x}?", "Which continent is {x} in?", "the continent of {x}",
        "What continent is {x} on?"), {
            "Egypt": "Africa", "Kenya": "Africa", "Brazil": "South America", "Canada": "North America", "China": "Asia",
            "India": "Asia", "France": "Europe", "Poland": "Europe"},
          ("Gondor", "Narnia", "Mali", "Oman", "Fiji", "Malta")),
)

REFUSAL = "I do not know that. I am a very small example model and only know a page of facts."
