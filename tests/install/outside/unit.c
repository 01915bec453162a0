/* The second unit of the program: the header defines nothing that two units may not both have. */
#include <telemetry.h>

unsigned other_unit(void);

unsigned other_unit(void) { return (unsigned)telemetry_abi_version(); }
