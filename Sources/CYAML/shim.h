/* SPDX-License-Identifier: Apache-2.0 */
/* libyaml: the events of a YAML stream, each with its place in the text. */
#pragma once

#include <yaml.h>
