"""What both engines need of transform's default channel rules: the lists of sites, as regular expressions."""

import pathlib
import re

RULES = pathlib.Path(__file__).resolve().parent.parent / "transform" / "src" / "decode" / "channels.rs"


def sites(name):
    """Matches a lower-case source or host. A list's `name.` is a label anywhere, the rest a host or above it."""
    body = re.search(rf"const {name}: &\[&str\] = &\[(.*?)\];", RULES.read_text(encoding="utf-8"), re.DOTALL).group(1)
    every = re.findall(r'"([^"]+)"', body)
    labels = "|".join(one[:-1] for one in every if one.endswith("."))
    hosts = "|".join(one.replace(".", "[.]") for one in every if not one.endswith("."))
    return f"(^|[.])(({labels})([.]|$)|({hosts or labels})$)"


VERSION = int(re.search(r"CHANNEL_RULES_VERSION: i32 = (\d+)", RULES.read_text(encoding="utf-8")).group(1))
SEARCH, SOCIAL, SHOPPING, VIDEO = map(sites, ("SEARCH", "SOCIAL", "SHOPPING", "VIDEO"))
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
