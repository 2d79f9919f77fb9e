"""Texts that break things, and bytes that are no text."""

from __future__ import annotations

_CONTROL = [chr(code) for code in (*range(0x20), 0x7F, 0x80, 0x85, 0x9B, 0x9D)]
_ESCAPES = [
    "\x1b[2J", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]8;;http://127.0.0.1/\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;ZWNobw==\x07", "\x1bPq\x1b\\", "\x1b[6n", "\x1bc", "\x9b2J", "a\x08b", "a\x7fb", "\x1b[?1049h",
    "line\r\n2026-01-01T00:00:00Z ERROR forged", "line\nforged", "line\rforged", "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "x\r\nSet-Cookie: a=b", "%0d%0aSet-Cookie:a=b", "a\u2028b", "a\u2029b", "a\x85b", "a\x0bb\x0cc", "a\x00b",
    "\x00\x00", "\\r\\n", "\\u0000", "\\x1b[2J", "tab\tseparated\tvalues",
]  # fmt: skip
_INJECTION = [
    "${jndi:ldap://127.0.0.1:1/a}", "${${lower:j}ndi:${lower:l}dap://127.0.0.1/a}", "${env:HOME}", "#{7*7}", "{{7*7}}",
    "{{config.items()}}", "<%= 7*7 %>", "{% for x in y %}", "${7*7}", "$(id)", "`id`", "; id", "| id", "&& id", "$HOME",
    "%s%s%s%n", "%d %x %p", "%(message)s", "{0}", "{}", "{message}", "{0.__class__}", "{tenant:String}",
    "{start:Int64}", "{p:Array(String)}", "{services:Identifier}", "?", ":1", "@p", "$1", "' OR '1'='1", "' OR 1=1 --",
    "\" OR \"\"=\"", "'; DROP TABLE logs; --", "') OR ('1'='1", "1' UNION SELECT * FROM system.tables --",
    "' UNION ALL SELECT 1,2,3 -- ", "' SETTINGS max_execution_time=0 --", "x' INTO OUTFILE 'f' --", "' FORMAT Native",
    "url('http://127.0.0.1:1/')", "file('/etc/passwd')", "remote('127.0.0.1', system.one)", "\\'", "\\\\'", "\\",
    "\\\\", "'", "''", '"', '""', "`", "``", "/*", "*/", "/* x */", "--", "#", ";", "%", "_", "%%", "100%", "a%b_c",
    "[a]", "^a$", "(a+)+$", "(?i)a", ".*", "a|b", "[", "(", "*", "+", "\\d+", "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "javascript:alert(1)", "&lt;", "&amp;", "<!--", "]]>",
    "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>", "../../etc/passwd",
    "..\\..\\windows", "/dev/null", "C:\\CON", "file:///etc/passwd", "http://127.0.0.1:1/", "//127.0.0.1/", "a=b&c=d",
    "a&b", "a=b", "a+b", "a%20b", "%00", "%", "%zz", "%c0%af", "a#b", "a?b", "a/b", "a;b", "a,b", "a:b", "a b",
    "*)(uid=*))(|(uid=*", "__proto__", "constructor", "toString", "__class__", "null", "NULL", "nil", "None",
    "undefined", "true", "false", "NaN", "Infinity", "-1", "0", "1e400", "0x10", "1/0", "\\N", "ᴺᵁᴸᴸ", "()", "[]",
    "[object Object]", "=1+1", "+1", "-1+1", "@SUM(1)", "=cmd|' /C calc'!A0", "\t=1", "\r=1", "'=1", "metadata.k",
    "service", "level", "a.b.c", "cloudevents.event_id", "id", ".", "..",
]  # fmt: skip
_UNICODE = [
    "é", "e\u0301", "\u212b", "ß", "ẞ", "İ", "ı", "ſ", "ﬁ", "Ǆ", "ς", "Σ", "日本語", "한국어", "العربية", "עברית",
    "हिन्दी",
    "ไทย", "\u202egnp.exe", "\u202dabc", "\u2066a\u2069", "\u200b", "\u200c\u200d", "\u2060", "\ufeff", "\ufeffbom",
    "a\ufeffb", "\u00a0", "\u3000", "\u180e", "\u2000\u2003", "\u00ad", "\ufffc", "\ufffd", "\ufffe", "\uffff",
    "\U0001fffe", "\U0010ffff", "\ue000", "\U000e0001\U000e0020", "\U000e0061", "😀", "👨\u200d👩\u200d👧\u200d👦",
    "👩🏽\u200d🚀", "🏳\ufe0f\u200d🌈",
    "🇺🇳🇪🇺", "☺️", "1️⃣", "❤\ufe0e", "𝔘𝔫𝔦", "ｆｕｌｌ", "①②③", "½", "٣", "Ｉ", "…", "‰",
    "Ω≈ç√∫˜µ≤≥÷", "åß∂ƒ©˙∆˚¬", "¡™£¢∞§¶•ªº–≠", "œ∑´®†¥¨ˆøπ“‘", "(╯°□°）╯︵ ┻━┻)", "¯\\_(ツ)_/¯",
    "Z̮̞̠͙͔ͅḀ̗̞͈̻̗Ḷ͙͎̯̹̞͓G̻O̭̗̮", "a" + "\u0301" * 100, "a" + "\u0e4f" * 50, "\u0300", "ﷺ", "ၐ", "లో",
    "\u0c1c\u0c4d\u0c1e\u200c\u0c3e", "x" * 40, "é" * 30, "😀" * 30, " ", "  ", " a ", "\n", "\t", "a\n", "\na",
    " \t\r\n ", "\u2003a",
]  # fmt: skip
TEXTS: tuple[str, ...] = tuple(dict.fromkeys([*_CONTROL, *_ESCAPES, *_INJECTION, *_UNICODE]))

NO_TEXT: tuple[bytes, ...] = (
    b"\x80", b"\xbf", b"\xc0", b"\xc0\x80", b"\xc0\xaf", b"\xc1\xbf", b"\xc3", b"\xc3(", b"\xe0\x80\xaf",
    b"\xe0\x9f\xbf", b"\xe2\x82", b"\xe2(\xa1", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xf0\x80\x80\xaf", b"\xf0\x8f\xbf\xbf", b"\xf0\x9f\x98", b"\xf0(\x8c\xbc", b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xfe", b"\xff", b"\xfe\xff",
    b"\xff\xfe", b"a\xffb", b"caf\xe9", b"\x93quoted\x94", "日本".encode("shift_jis"), "привет".encode("cp1251"),
    "text".encode("utf-16"), b"\xff\xfea\x00", b"+\xff-",
)  # fmt: skip
ESCAPED_SURROGATES: tuple[bytes, ...] = (
    b"\\ud800", b"\\udbff", b"\\udc00", b"\\udfff", b"\\ud800x", b"x\\udc00", b"\\ud800\\ud800", b"\\udc00\\ud800",
    b"\\ud83d \\ude00", b"\\uD800\\u0041", b"\\ud83d\\\\ude00",
)  # fmt: skip
