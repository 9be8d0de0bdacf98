/* SPDX-License-Identifier: GPL-2.0 */
#ifndef TALLY_H
#define TALLY_H

#define TALLY_STEP 2

int tally_add(int sum);

#endif
