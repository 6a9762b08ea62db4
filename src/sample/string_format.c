/* SPDX-License-Identifier: Apache-2.0
 * string_format.c - what the RFCs say, as expressions; a {name} in one stands for another one of the table.
 *
 * Each writes a part of what its RFC allows, nothing that it does not: letters of time zones are large, fractions of a
 * second have 9 digits at most, no leap seconds (which days have one is not in the text), no quoted local parts, no year 0;
 * a name of hosts has 4 labels of 63 characters or 8 of 30 and ends in a letter's label, so that it keeps under 253. */
#include "sample/string_format.h"

#include <string.h>

#define OCTET "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define H16   "[0-9A-Fa-f]{1,4}"
#define ATEXT "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"

typedef struct format {
    const char *name, *re; /* a name with a space is only used by others */
} format;

static const format formats[] = {
    {" year", "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"},
    {" leap", "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"},
    {"date", "(?:{ year}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
             "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|{ leap}-02-29)"},
    {"time", "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?"
             "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"},
    {"date-time", "{date}T{time}"},
    {"duration", "P(?:{ days}(?:T{ hours})?|T{ hours}|[0-9]{1,9}W)"},
    {" days",
     "(?:[0-9]{1,9}Y(?:[0-9]{1,9}M(?:[0-9]{1,9}D)?)?|[0-9]{1,9}M(?:[0-9]{1,9}D)?|[0-9]{1,9}D)"},
    {" hours",
     "(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?|[0-9]{1,9}S)"},
    {"uuid", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"},
    {"email", "{ atom}@(?:{ label62}\\.){1,2}{ last24}|{ atom}@(?:{ label20}\\.){3,7}{ last24}"},
    {" atom", "(?:" ATEXT "{1,64}|" ATEXT "(?:\\.?" ATEXT "){0,31})"},
    {" label62", "[A-Za-z0-9](?:[A-Za-z0-9-]{0,60}[A-Za-z0-9])?"},
    {" label30", "[A-Za-z0-9](?:[A-Za-z0-9-]{0,28}[A-Za-z0-9])?"},
    {" label20", "[A-Za-z0-9](?:[A-Za-z0-9-]{0,18}[A-Za-z0-9])?"},
    {" label63", "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"},
    {" last24", "[A-Za-z]{2,24}"},
    {" last", "[A-Za-z](?:[A-Za-z0-9-]{0,28}[A-Za-z0-9])?"},
    {"hostname", "(?:{ label63}\\.){0,3}{ last}|(?:{ label30}\\.){4,7}{ last}"},
    {"ipv4", OCTET "(?:\\." OCTET "){3}"},
    {"ipv6", "(?:(?:" H16 ":){6}{ 32}|::(?:" H16 ":){5}{ 32}|(?:" H16 ")?::(?:" H16 ":){4}{ 32}"
             "|(?:(?:" H16 ":){0,1}" H16 ")?::(?:" H16 ":){3}{ 32}"
             "|(?:(?:" H16 ":){0,2}" H16 ")?::(?:" H16 ":){2}{ 32}"
             "|(?:(?:" H16 ":){0,3}" H16 ")?::" H16 ":{ 32}"
             "|(?:(?:" H16 ":){0,4}" H16 ")?::{ 32}"
             "|(?:(?:" H16 ":){0,5}" H16 ")?::" H16 "|(?:(?:" H16 ":){0,6}" H16 ")?::)"},
    {" 32", "(?:" H16 ":" H16 "|{ipv4})"},
    {" pchar", "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"},
    {" authority",
     "(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?"
     "(?:\\[{ipv6}\\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"},
    {" tail", "(?:\\?(?:{ pchar}|[/?])*)?(?:#(?:{ pchar}|[/?])*)?"},
    {" rooted", "//{ authority}(?:/{ pchar}*)*|/(?:{ pchar}+(?:/{ pchar}*)*)?"},
    {"uri", "[A-Za-z][A-Za-z0-9+.-]*:(?:{ rooted}|{ pchar}+(?:/{ pchar}*)*)?{ tail}"},
    {"uri-reference", "(?:[A-Za-z][A-Za-z0-9+.-]*:(?:{ rooted}|{ pchar}+(?:/{ pchar}*)*)?"
                      "|(?:{ rooted}|{ segment}(?:/{ pchar}*)*)?){ tail}"},
    {" segment", "(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})+"},
    {"json-pointer", "(?:/(?:[^~/]|~[01])*)*"},
    {"relative-json-pointer", "(?:0|[1-9][0-9]{0,8})(?:#|(?:/(?:[^~/]|~[01])*)*)"},
    {"password", ""},
};

static const char *find(const char *name, size_t n)
{
    for (size_t i = 0; i < QN_COUNT(formats); i++)
        if (strlen(formats[i].name) == n && memcmp(formats[i].name, name, n) == 0)
            return formats[i].re;
    return NULL;
}

bool qn_string_format(const char *name, qn_str *out)
{
    const char *stack[8], *re = *name == ' ' ? NULL : find(name, strlen(name));
    size_t depth = 0;
    if (!re)
        return false;
    for (;;) {
        while (*re == '\0' && depth)
            re = stack[--depth];
        if (*re == '\0')
            return true;
        const char *end = *re == '{' ? strchr(re, '}') : NULL;
        const char *part = end ? find(re + 1, (size_t)(end - re) - 1) : NULL;
        if (part) {
            stack[depth++] = end + 1;
            re = part;
        } else {
            qn_str_addc(out, *re++);
        }
    }
}

bool qn_number_format(const char *name, const char **low, const char **high)
{
    static const char *const ranges[][3] = {
        {"int8", "-128", "127"},
        {"int16", "-32768", "32767"},
        {"int32", "-2147483648", "2147483647"},
        {"int64", "-9223372036854775808", "9223372036854775807"},
        {"uint8", "0", "255"},
        {"uint16", "0", "65535"},
        {"uint32", "0", "4294967295"},
        {"uint64", "0", "18446744073709551615"},
        {"float", NULL, NULL},
        {"double", NULL, NULL},
    };
    for (size_t i = 0; i < QN_COUNT(ranges); i++)
        if (strcmp(ranges[i][0], name) == 0) {
            *low = ranges[i][1];
            *high = ranges[i][2];
            return true;
        }
    return false;
}
