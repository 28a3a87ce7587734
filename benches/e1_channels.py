"""What both engines need of transform's default channel rules: the lists of sites, as regular expressions."""

import pathlib
import re

DECODE = pathlib.Path(__file__).resolve().parent.parent / "transform" / "src" / "decode"
RULES = (DECODE / "channels.rs").read_text(encoding="utf-8")
LISTS = (DECODE / "site_lists.rs").read_text(encoding="utf-8")


def entries(name):
    body = re.search(rf"const {name}: &\[&str\] =\s*&\[(.*?)\];", LISTS, re.DOTALL).group(1)
    return re.findall(r'"([^"]+)"', body)


def sites(*names, before="(.*[.])?"):
    """Matches a lower-case source or host that is in a list, or below.

    An entry `name.` is a word, or goes on with a public suffix: here with any one or two labels,
    which is the same for the generated data.
    """
    every = [entry.replace(".", "[.]") for name in names for entry in entries(name)]
    words = "|".join(entry.removesuffix("[.]") for entry in every if entry.endswith("[.]"))
    hosts = "|".join(entry for entry in every if not entry.endswith("[.]"))
    # No entry is empty, so an empty list of words or hosts matches no host.
    return f"^(({words})|{before}(({words})([.][a-z]+){{1,2}}|({hosts})))$"


VERSION = int(re.search(r"CHANNEL_RULES_VERSION: i32 = (\d+)", RULES).group(1))
SOCIAL, SHOPPING, VIDEO, ASSISTANTS = map(sites, ("SOCIAL", "SHOPPING", "VIDEO", "ASSISTANTS"))
SEARCH = sites("SEARCH", before=f"(({'|'.join(entries('SEARCH_PAGES'))})[.]|(.*[.])?search[.])?")
# From where a visit goes on: the hosts, or a label of a bank's.
PASSED_THROUGH = f"{sites('PAYMENT', 'SIGN_IN')}|(^|[.])({'|'.join(entries('SECURE_LABELS'))})([.]|$)"
# The registrable domain, were every public suffix one label: so it is in the generated data.
REGISTRABLE = "[^.]+[.][^.]*[^.0-9][^.]*$"
SHOP_CAMPAIGN = "(^|[^a-df-z])shop|shopping"
DISPLAY = ["display", "banner", "expandable", "interstitial", "cpm"]
PAID_SEARCH = ["paid_search", "paidsearch", "paid-search", "sem"]
PAID_SOCIAL = ["paid_social", "paidsocial", "paid-social", "cpm_social"]
SOCIAL_MEDIA = ["social", "social-network", "social-media", "social_media", "sm", "social network", "social media"]
EMAIL = ["email", "e-mail", "e_mail", "e mail"]
# By click id: what GA4 takes for source and medium.
CLICKS = {
    "gclid": ("google", "cpc"), "wbraid": ("google", "cpc"), "gbraid": ("google", "cpc"), "msclkid": ("bing", "cpc"),
    "dclid": ("dv360", "display"), "ttclid": ("tiktok", "cpc"), "twclid": ("twitter", "cpc"),
    "li_fat_id": ("linkedin", "cpc"), "fbclid": ("facebook", "social"),
}
