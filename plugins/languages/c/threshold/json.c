#include "json.h"

#include <stdlib.h>
#include <string.h>

static const char *past_space(const char *at) {
  return at + strspn(at, " \t\r\n");
}

/// Behind the string that begins here, or NULL.
static const char *past_string(const char *at) {
  if (*at != '"') return NULL;
  for (at++; *at != '"'; at++) {
    if (*at == '\\') at++;
    if (*at == 0) return NULL;
  }
  return at + 1;
}

/// Behind the value that begins here, or NULL.
static const char *past_value(const char *at) {
  if (*at == '"') return past_string(at);
  // By the depth of brackets: what is in them is nobody's matter here.
  size_t depth = 0;
  for (; *at != 0; at++) {
    if (*at == '"') {
      at = past_string(at);
      if (at == NULL) return NULL;
      at--;
    } else if (*at == '{' || *at == '[') {
      depth++;
    } else if (*at == '}' || *at == ']' || *at == ',') {
      if (depth == 0) return at;
      if (*at != ',') depth--;
    }
  }
  return NULL;
}

const char *json_member(const char *text, const char *name) {
  const char *at = past_space(text), *found = NULL;
  if (*at != '{') return NULL;
  at = past_space(at + 1);
  while (*at != '}') {
    const char *key = at;
    at = past_string(at);
    if (at == NULL) return NULL;
    bool is_it = (size_t)(at - key) == strlen(name) + 2 && strncmp(key + 1, name, strlen(name)) == 0;
    at = past_space(at);
    if (*at != ':') return NULL;
    at = past_space(at + 1);
    if (is_it) found = at;
    at = past_value(at);
    if (at == NULL) return NULL;
    at = past_space(at);
    if (*at == ',') at = past_space(at + 1);
    else if (*at != '}') return NULL;
  }
  return *past_space(at + 1) == 0 ? found : NULL;
}

bool json_number(const char *text, const char *name, double *number) {
  const char *at = json_member(text, name);
  // Not all that strtod takes is a number of JSON: "inf", "0x1p3", "+1".
  if (at == NULL || strspn(at, "-0123456789") == 0) return false;
  char *end;
  *number = strtod(at, &end);
  return end != at && strchr(",} \t\r\n", *end) != NULL && *end != 0;
}

bool json_bool(const char *text, const char *name, bool *value) {
  const char *at = json_member(text, name);
  if (at == NULL) return false;
  *value = strncmp(at, "true", 4) == 0;
  return *value || strncmp(at, "false", 5) == 0;
}
