// What reads JSON for the plugin in C does so for this one.
#include "../../c/threshold/json.c"
