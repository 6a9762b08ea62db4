/* SPDX-License-Identifier: Apache-2.0
 * limits.h - the constants of limits.def. Threads: any. */
#ifndef QN_BASE_LIMITS_H
#define QN_BASE_LIMITS_H

enum {
#define QN_LIMIT(name, value, unit, over) QN_LIMIT_##name = (value),
#include "base/limits.def"
#undef QN_LIMIT
};

#endif
