// Command events checks EventBuses, EventSources and Sensors as the controllers of Argo Events do before they use them,
// and refuses unknown fields, which the controllers, their `lint` and their CRDs all let pass in silence.
//
//	events FILE...
//
// One line for each problem, and exit code 1. Of the event sources only those that this platform may have are here: each
// other one brings the client of a cloud with it. A Sensor is checked against the EventBus that it names, if given.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/argoproj/argo-events/pkg/apis/events/v1alpha1"
	"github.com/argoproj/argo-events/pkg/eventsources/sources/github"
	"github.com/argoproj/argo-events/pkg/eventsources/sources/gitlab"
	"github.com/argoproj/argo-events/pkg/eventsources/sources/webhook"
	"github.com/argoproj/argo-events/pkg/reconciler/eventbus"
	"github.com/argoproj/argo-events/pkg/reconciler/sensor"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	kyaml "sigs.k8s.io/yaml"
)

type object struct {
	file string
	body metav1.Object
	kind string
}

func main() {
	failed := false
	problem := func(file, what string, err error) {
		fmt.Printf("%s: %s: %v\n", file, what, err)
		failed = true
	}
	var objects []object
	buses := map[[2]string]*v1alpha1.EventBus{}
	for _, file := range os.Args[1:] {
		text, err := os.ReadFile(file)
		if err != nil {
			problem(file, "file", err)
			continue
		}
		documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			var head metav1.TypeMeta
			if err == nil {
				err = kyaml.Unmarshal(document, &head)
			}
			if err != nil {
				problem(file, "YAML", err)
				break
			}
			var body metav1.Object
			switch head.Kind {
			case "EventBus":
				bus := &v1alpha1.EventBus{}
				body, err = bus, kyaml.UnmarshalStrict(document, bus)
				buses[[2]string{bus.Namespace, bus.Name}] = bus
			case "EventSource":
				source := &v1alpha1.EventSource{}
				body, err = source, kyaml.UnmarshalStrict(document, source)
			case "Sensor":
				sensor := &v1alpha1.Sensor{}
				body, err = sensor, kyaml.UnmarshalStrict(document, sensor)
			default:
				continue // of another project
			}
			if err != nil {
				problem(file, head.Kind+" "+body.GetName(), err)
			}
			objects = append(objects, object{file, body, head.Kind})
		}
	}
	for _, each := range objects {
		for _, err := range check(each.body, buses) {
			problem(each.file, each.kind+" "+each.body.GetName(), err)
		}
	}
	if failed {
		os.Exit(1)
	}
}

func check(body metav1.Object, buses map[[2]string]*v1alpha1.EventBus) []error {
	switch body := body.(type) {
	case *v1alpha1.EventBus:
		return only(eventbus.ValidateEventBus(body))
	case *v1alpha1.EventSource:
		return checkSource(body)
	case *v1alpha1.Sensor:
		name := body.Spec.EventBusName
		if name == "" {
			name = v1alpha1.DefaultEventBusName
		}
		bus := buses[[2]string{body.Namespace, name}]
		if bus == nil {
			bus = &v1alpha1.EventBus{Spec: v1alpha1.EventBusSpec{JetStream: &v1alpha1.JetStreamBus{}}}
		}
		return only(sensor.ValidateSensor(body, bus))
	}
	return nil
}

func only(err error) []error {
	if err == nil {
		return nil
	}
	return []error{err}
}

type listener interface {
	ValidateEventSource(ctx context.Context) error
}

// checkSource does what the eventsource package's ValidateEventSource does, for the kinds that we know.
func checkSource(source *v1alpha1.EventSource) (found []error) {
	listeners := map[string][]listener{}
	for name, body := range source.Spec.Github {
		listeners[name] = append(listeners[name], &github.EventListener{EventName: name, GithubEventSource: body})
	}
	for name, body := range source.Spec.Gitlab {
		listeners[name] = append(listeners[name], &gitlab.EventListener{EventName: name, GitlabEventSource: body})
	}
	for name, body := range source.Spec.Webhook {
		listeners[name] = append(listeners[name], &webhook.EventListener{EventName: name, Webhook: body})
	}
	for name, all := range listeners {
		if len(all) > 1 {
			found = append(found, fmt.Errorf("more than one event is called %q", name))
		}
		for _, each := range all {
			if err := each.ValidateEventSource(context.Background()); err != nil {
				found = append(found, fmt.Errorf("event %q: %w", name, err))
			}
		}
	}
	spec := reflect.ValueOf(source.Spec)
	for index := range spec.NumField() {
		field := spec.Type().Field(index)
		kind, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Type.Kind() == reflect.Map && spec.Field(index).Len() > 0 && kind != "github" && kind != "gitlab" && kind != "webhook" {
			found = append(found, fmt.Errorf("no check of %q events is built in: add it to tools/lint/events/main.go", kind))
		}
	}
	if len(listeners) == 0 && len(found) == 0 {
		found = append(found, errors.New("no events"))
	}
	return found
}
