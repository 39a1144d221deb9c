import pytest
from mail_text import mail_text, visible_text

PLAN = b"""From list-admin@example.com  Thu Aug 22 12:36:23 2002
Received: from secret.server (secret.server [127.0.0.1])
Subject: Re: [ILUG] =?iso-8859-1?q?caf=E9?=
List-Id: <ilug.example.com>
Date: Thu, 22 Aug 2002 18:26:25 +0700

Hello,
  see   you \xe9.
____________________________________________
Irish mailing list maintainer: someone
"""


def test_a_mail_is_its_subject_and_its_body():
    assert mail_text(PLAN) == "Re: café\nHello, see you é."


def test_nothing_of_the_other_headers_is_left():
    text = mail_text(PLAN)
    assert not any(leak in text for leak in ("secret", "2002", "ILUG", "ilug", "list"))


def test_the_plain_part_is_preferred_and_decoded():
    mail = b"""Subject: x
Content-Type: multipart/alternative; boundary=B

--B
Content-Type: text/plain
Content-Transfer-Encoding: base64

Z3LDvMOfZQ==
--B
Content-Type: text/html

<p>not this</p>
--B--
"""
    assert mail_text(mail) == "x\n" + "grüße".encode().decode("latin-1")


def test_only_what_a_browser_shows_is_left_of_html():
    mail = (
        b"Subject: buy\nContent-Type: text/html\n\n<style>p {}</style><p>Buy&nbsp;<b>now</b><script>x()</script>!</p>"
    )
    assert mail_text(mail) == "buy\nBuy now !"


@pytest.mark.parametrize("html", ["", "<", "<p", "&#xZZ;", "</script></style>x", "<![if !x]>y<![endif]>"])
def test_broken_html_does_no_harm(html):
    assert isinstance(visible_text(html), str)


@pytest.mark.parametrize(
    "mail", [b"", b"no header at all", b"Subject:\n\n", b"Content-Transfer-Encoding: base64\n\n!!!"]
)
def test_broken_mails_do_no_harm(mail):
    assert "\n" in mail_text(mail)
