// As much of JSON as a reading needs: one member of the outermost object.

#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Finds the member's value in a JSON object, however the others look: where it begins, or
/// NULL. The text ends with a NUL.
const char *json_member(const char *text, const char *name);

/// The member's value if it is a number, or if it is `true` or `false`.
bool json_number(const char *text, const char *name, double *number);
bool json_bool(const char *text, const char *name, bool *value);

#ifdef __cplusplus
}
#endif

#endif
