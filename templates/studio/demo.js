// The page of `voxpipe demo`: try one model.
import { $, attempt, request } from "./common.js";
import { mount } from "./tryit.js";

const response = await attempt(() => request("/v1/models"));
const models = (response?.data || []).map((model) => model.id);
$("#base").textContent = location.origin;
$("#model").textContent = models[0] || "MODEL";
mount($("#try"), { models });
