"""The functions that Kubernetes adds to CEL, by what its documentation says of them."""

import re
import time
from typing import Any

import pytest

from meltemi.local.apiserver.cel.expressions import CelError, Expression

TRUE = r"""
'abcd 123 e45'.find('[0-9]+') == '123'
'none'.find('[0-9]+') == ''
'1 22 333'.findAll('[0-9]+') == ['1', '22', '333']
'1 22 333'.findAll('[0-9]+', 2) == ['1', '22']
url('https://u:p@example.com:80/a%20b?x=1&x=2').getHost() == 'example.com:80'
url('https://example.com:80/a%20b?x=1&x=2').getEscapedPath() == '/a%20b'
url('https://example.com/?x=1&x=2').getQuery() == {'x': ['1', '2']}
url('https://[::1]:80/').getHostname() == '::1'
!isURL('../relative')
quantity('1.5Gi').isGreaterThan(quantity('1500Mi'))
quantity('50k').add(20).sub(quantity('20')) == quantity('50000')
quantity('0.1').add(quantity('0.2')) == quantity('300m')
quantity('1k').asInteger() == 1000
!quantity('100m').isInteger() && quantity('2E').isInteger()
quantity('1e3') == quantity('1k')
quantity('-5').sign() == -1
quantity('200M').compareTo(quantity('0.2G')) == 0
!isQuantity('10 pounds')
quantity('1500m').asApproximateFloat() == 1.5
ip('::1').family() == 6 && ip('127.0.0.1').family() == 4
ip('2001:db8:0:0::1') == ip('2001:db8::1')
string(ip('2001:0db8::1')) == '2001:db8::1'
!ip.isCanonical('2001:DB8::1')
!isIP('300.0.0.1') && !isIP('::ffff:1.2.3.4') && !isIP('10.0.0.0/8') && isIP('10.0.0.1')
ip('127.0.0.9').isLoopback() && ip('0.0.0.0').isUnspecified()
ip('224.0.0.1').isLinkLocalMulticast() && ip('169.254.1.1').isLinkLocalUnicast()
ip('8.8.8.8').isGlobalUnicast() && !ip('127.0.0.1').isGlobalUnicast()
cidr('192.168.0.0/24').containsIP('192.168.0.1')
cidr('192.168.0.0/24').containsIP(ip('192.168.0.1'))
!cidr('192.168.0.0/24').containsIP('192.168.1.1')
cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24')
!cidr('192.168.0.0/24').containsCIDR(cidr('192.168.0.0/16'))
cidr('192.168.0.5/24').masked() == cidr('192.168.0.0/24')
cidr('192.168.0.5/24').ip() == ip('192.168.0.5')
cidr('::/16').prefixLength() == 16
isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0') && !isCIDR('10.0.0.0/33')
!format.dns1123Label().validate('my-name').hasValue()
format.dns1123Label().validate('my_name').hasValue()
format.named('uuid').hasValue() && !format.named('colour').hasValue()
!format.qualifiedName().validate('example.com/a_b').hasValue()
!format.dns1123LabelPrefix().validate('my-').hasValue()
!format.date().validate('2026-01-31').hasValue()
format.datetime().validate('2026-01-31').hasValue()
format.byte().validate('not base64').orValue([]) == ['must be base64']
format.labelValue().validate('').orValue(['x']) == ['x']
semver('1.2.3').major() == 1 && semver('1.2.3').minor() == 2 && semver('1.2.3').patch() == 3
semver('1.10.0').isGreaterThan(semver('1.9.0'))
semver('1.0.0-alpha.2').isLessThan(semver('1.0.0-alpha.10'))
semver('1.0.0-rc.1').compareTo(semver('1.0.0')) == -1
semver('1.0.0+a') == semver('1.0.0+b')
!isSemver('v1.2') && isSemver('1.2.3-beta.1+build')
sets.contains([1, 2, 3], [3, 1])
!sets.contains([1], [2])
sets.equivalent([1, 2, 1], [2, 1])
sets.intersects(['a', 'b'], ['b', 'c'])
'abc'.contains('b') && sets.contains(['a'], ['a'])
'%s has %d of %.2f, %x'.format(['pod', 3, 1.5, 255]) == 'pod has 3 of 1.50, ff'
'%s %s %s'.format([[1, 'a'], true, null]) == '[1, a] true null'
'100%%'.format([]) == '100%'
'%b %o %X'.format([5, 8, 'hi']) == '101 10 6869'
strings.quote('a"b\n') == '"a\\"b\\n"'
'a-b-c'.split('-', 2) == ['a', 'b-c']
['a', 'b'].join('+') == 'a+b'
'TacoCat'.lowerAscii().indexOf('cat') == 4
'tacocat'.lastIndexOf('ac') == 1 && 'tacocat'.charAt(1) == 'a'
[1, 2, 2].isSorted() && [3, 1].min() == 1 && [3, 1].max() == 3 && [3, 1].sum() == 4
[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2
""".strip().splitlines()


@pytest.mark.parametrize("text", TRUE)
def test_a_function_does_what_its_documentation_says(text: str) -> None:
    assert Expression(text, ()).value({}) is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("self.paint('red')", "undeclared reference to 'paint'"),
        ("self.a && selfish.b", "undeclared reference to 'selfish'"),
        ("self.?a.orValue(1) == 1", "unsupported syntax '.?'"),
        ("self.", "Failed to parse"),
        ("string(cidr(self))", "string() is not offered beside cidr()"),
        ("x" * 9000, "at most"),
    ],
)
def test_what_cannot_run_is_refused_when_it_is_made(text: str, said: str) -> None:
    with pytest.raises(CelError, match=re.escape(said)):
        Expression(text, ("self",))


@pytest.mark.parametrize(
    "text",
    ["ip(self)", "cidr(self)", "quantity(self)", "semver(self)", "self.find('(')", "url(self)",
     "self.substring(9)", "'%d'.format([self])", "'%s %s'.format([self])", "self.charAt(-1)"],
)  # fmt: skip
def test_a_value_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(CelError):
        Expression(text, ("self",)).value({"self": "a b"})


def test_names_that_macros_give_are_known() -> None:
    items: list[dict[str, Any]] = [{"name": "a", "ips": ["10.0.0.1"]}]
    text = "self.all(it, it.ips.exists(ip, isIP(ip)) && it.name.find('a') != '')"
    assert Expression(text, ("self",)).value({"self": items}) is True


def test_patterns_of_users_take_linear_time() -> None:
    started = time.process_time()
    assert Expression("self.find('(a+)+$')", ("self",)).value({"self": "a" * 5000 + "b"}) == ""
    assert time.process_time() - started < 1
