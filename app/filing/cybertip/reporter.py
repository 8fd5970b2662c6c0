"""Who reports, as the authority registered them, and whether what stands there is no more than an example."""

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from lxml import etree

from app.filing.cybertip import rules
from app.settings import FilingSettings

_PLACEHOLDER_WORDS: Final = re.compile(
    r"placeholder|changeme|\bchange me\b|lorem ipsum|\b(jane|john) doe\b|\byour (name|company)\b"
    r"|\bexample\b|^\W*todo\W*$"
)
"""Of values in small letters. Real names hold some of these letters, as Todorov and Mastodon do."""

_FREE_TEXTS: Final = frozenset({"about", "terms_of_service"})
"""Of a reporter; they may say "for example", and are placeholders only if they begin as one."""

_PLACEHOLDER_DOMAINS: Final = (
    *("example.com", "example.org", "example.net"),
    *("example", "invalid", "test", "localhost", "local"),
)
"""Of RFC 2606 and RFC 6761: nobody is reached there."""


@dataclass(frozen=True)
class Reporter:
    """Who reports, as the authority registered them; of ``CORDON_REPORTER_*``.

    Attributes:
        company: the organisation's name.
        about: who it is, what it keeps and for how long, how to reach its counsel.
    """

    first_name: str
    last_name: str
    email: str
    company: str
    phone: str | None = None
    about: str | None = None
    terms_of_service: str | None = None
    legal_url: str | None = None
    contact_first_name: str | None = None
    contact_last_name: str | None = None
    contact_email: str | None = None

    @classmethod
    def of(cls, settings: FilingSettings) -> Self:
        """The reporter that the settings name; placeholders where they do not."""
        names = cls.__dataclass_fields__
        return cls(**{name: getattr(settings, f"reporter_{name}") for name in names})

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Settings that still hold what nobody registers with; none of a reporter fit for production."""
        return tuple(
            f"CORDON_REPORTER_{name.upper()}"
            for name in self.__dataclass_fields__
            if (value := getattr(self, name)) is not None and is_placeholder(value, prose=name in _FREE_TEXTS)
        )

    @property
    def wrong(self) -> str | None:
        """A setting that the authority must refuse, and what it must be; None if there is none.

        Each report would be parked with it.
        """
        name_rule = rules.text(rules.MAX_NAME)
        for name, rule in (
            *((name, name_rule) for name in ("first_name", "last_name")),
            *((f"contact_{name}", name_rule) for name in ("first_name", "last_name")),
            *(("email", rules.email), ("contact_email", rules.email), ("legal_url", rules.url)),
        ):
            value = getattr(self, name)
            if value is not None and (mend := rule(value)) is not None:
                return f"CORDON_REPORTER_{name.upper()} {mend}"
        return None


def is_placeholder(value: str, *, prose: bool = False) -> bool:
    """Whether a value of the reporter is one that examples use: nobody is reached by it.

    Args:
        value: of a setting.
        prose: whether it is a text, in which such words may stand among others.
    """
    lowered = value.strip().lower()
    if "@" in lowered or lowered.startswith(("http://", "https://")):
        host = lowered.rpartition("@")[2] if "@" in lowered else urlsplit(lowered).hostname or ""
        if any(host == domain or host.endswith("." + domain) for domain in _PLACEHOLDER_DOMAINS):
            return True
    # A letter, or the same one over and over, names nobody.
    return (
        not lowered
        or (lowered.startswith("<") and lowered.endswith(">"))
        or (len(lowered) > 1 and len(set(lowered)) == 1)
        or (_PLACEHOLDER_WORDS.match if prose else _PLACEHOLDER_WORDS.search)(lowered) is not None
    )


def reporter_is_placeholder(root: etree._Element) -> bool:
    """Whether the reporter that a document names is one that examples use.

    A custodian's machine has settings of its own, by which the document was built there.
    """
    for element in root.iterfind("reporter//*"):
        # The company's name is the first line of what it says of itself.
        first, _, rest = (element.text or "").strip().partition("\n")
        if first and is_placeholder(first, prose=element.tag == "termsOfService"):
            return True
        if rest and is_placeholder(rest, prose=True):
            return True
    return False
