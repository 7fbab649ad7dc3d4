/* SPDX-License-Identifier: MIT */
/*
 * Waits that something comes between, or has come between, when their process is staged: events that
 * io_getevents has taken already, signals, requests that io_submit itself waits for.
 */
#include "kinds.h"

int main(void)
{
	if (facts_start())
		return 1;
	return tap_end();
}
